"""A cell of a bundle shipped: as the folder that other tools load, as a repository of models for a server."""
