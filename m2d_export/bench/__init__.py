"""Measure a bundle on its shipped graphs: the quality of every cell, and the cost of every layer."""
