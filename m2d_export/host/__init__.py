"""The machine: optional packages, files, processors and GPUs."""
