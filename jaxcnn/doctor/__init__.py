"""Whether this machine computes correctly, with these versions: the parts of `jaxcnn doctor`."""
