"""Measure the graphs of a bundle: the quality of every cell, and the cost of every layer."""
