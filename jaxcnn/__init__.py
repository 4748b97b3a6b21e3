"""Four convolutional networks on CIFAR-10 in pure-functional JAX/Flax."""

import time

__version__ = "0.1.0"

IMPORTED_AT = time.perf_counter()
"""When the program began, but for the interpreter's own start."""
