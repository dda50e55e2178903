"""The bundle: its manifest, and its files on disk."""
