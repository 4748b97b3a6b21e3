"""Safetensors files for what is exchanged: the reader and writer by which networks are loaded."""

from jaxcnn.models.safetensors import SUFFIX, Content, read, write

__all__ = ["SUFFIX", "Content", "read", "write"]
