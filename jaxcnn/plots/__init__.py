"""Pictures from numbers: curves, tables of classes, images, filters. The only door to matplotlib.

Every function returns a matplotlib figure that `save` writes. Nothing here knows of runs or JAX,
and matplotlib itself is imported by the first figure, so that a training starts without it.
"""

from jaxcnn.plots.classes import confusion, per_class
from jaxcnn.plots.corruptions import corruptions
from jaxcnn.plots.curves import compared, curves
from jaxcnn.plots.grad_cam import Attribution, grad_cam, overlay
from jaxcnn.plots.images import Prediction, filters, predictions, rows
from jaxcnn.plots.rates import lr_range
from jaxcnn.plots.reliability import reliability
from jaxcnn.plots.style import SUFFIXES, save
from jaxcnn.plots.tradeoff import gradients, tradeoff

__all__ = [
    "SUFFIXES",
    "Attribution",
    "Prediction",
    "compared",
    "confusion",
    "corruptions",
    "curves",
    "filters",
    "grad_cam",
    "gradients",
    "lr_range",
    "overlay",
    "per_class",
    "predictions",
    "reliability",
    "rows",
    "save",
    "tradeoff",
]
