"""Exits without labels: heads in closed form, then training on text; run it with ``m2d-export distil``."""
