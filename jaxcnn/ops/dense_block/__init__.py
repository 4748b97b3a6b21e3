"""A dense block of DenseNet as one operation."""
