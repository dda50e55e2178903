"""Measure a bundle: the score of every cell, the latency and throughput of every layer, from the shipped graphs."""
