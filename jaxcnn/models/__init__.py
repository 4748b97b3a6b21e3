"""The networks: by name, and with weights that somebody has trained."""

from jaxcnn.models.networks import FAMILY, create, options, remat_saves_memory
from jaxcnn.models.pretrained import Pretrained, load_pretrained

__all__ = [
    "FAMILY",
    "Pretrained",
    "create",
    "load_pretrained",
    "options",
    "remat_saves_memory",
]
