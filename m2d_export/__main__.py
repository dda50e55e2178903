"""``python -m m2d_export`` runs ``m2d-export``."""

from m2d_export.cli import main

main()
