"""Training of 2D-Matryoshka sentence encoders: ``python -m train --help``."""
