"""Winograd's algorithms for 3x3 convolutions, as matrix products."""
