"""CIFAR-10 and CIFAR-100: downloaded, read from an archive, converted without TensorFlow."""
