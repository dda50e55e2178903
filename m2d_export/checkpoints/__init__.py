"""Loads a checkpoint, runs its exits in PyTorch (the float32 reference), and saves an exit as an ordinary folder."""
