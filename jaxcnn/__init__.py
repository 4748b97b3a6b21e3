"""Four convolutional networks on CIFAR-10 in pure-functional JAX/Flax."""

__version__ = "0.1.0"
