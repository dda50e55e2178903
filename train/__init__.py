"""Training of 2D-Matryoshka sentence encoders; run it with ``python -m train``."""
