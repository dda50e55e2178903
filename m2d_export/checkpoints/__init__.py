"""Load a checkpoint, run its exits in PyTorch (the float32 reference), and save an exit as an ordinary folder."""
