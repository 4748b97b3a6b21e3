"""Images and labels: load and split them, keep them decoded, batch and augment them."""

from jaxcnn.data.load import Dataset, Split, load

__all__ = ["Dataset", "Split", "load"]
