"""What runs a variant: batches in, vectors out. A library is imported when its runtime is checked or opened."""
