"""A cell for other programs: a folder that other tools load, a Triton model repository, or a C++ project."""
