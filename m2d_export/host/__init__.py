"""What this machine has: optional packages, files written whole or not at all, processors and GPUs."""
