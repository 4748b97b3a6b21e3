"""The fifteen corruptions of CIFAR-10-C, computed anew (arXiv:1903.12261)."""
