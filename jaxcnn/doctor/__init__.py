"""Whether this machine computes correctly, with these versions: the rooms of `jaxcnn doctor`."""
