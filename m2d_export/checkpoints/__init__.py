"""A checkpoint: loaded, cut into exits (the float32 reference), and sliced into ordinary folders."""
