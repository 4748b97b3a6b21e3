"""A run on disk, and who watches it."""
