"""Graph passes, one file each: every pass changes a graph in place and returns whether it changed."""
