"""Write a cell for other programs: as a folder for other tools, as a Triton model repository, or as a C++ project."""
