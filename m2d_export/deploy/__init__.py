"""One cell, shipped: as a folder that other tools load, as a Triton model repository, as a C++ project."""
