"""Texts: read from files or from this package, turned into token ids, padded into batches."""
