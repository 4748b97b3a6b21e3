"""Runs and networks in the formats of other programs."""
