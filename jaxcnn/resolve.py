"""From a configuration and its data to config.json, and from config.json back to a network.

config.json holds all that shaped the run: nothing in it is "auto" or unset, and the facts of the
data set that the network depends on (classes, image shape, pixel moments) stand beside the choices.
Whatever reads a run needs this file alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import config_dict

from jaxcnn import augment, models
from jaxcnn import config as configuration
from jaxcnn.data import Dataset


def resolve(config: config_dict.ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Returns the content of config.json.

    Raises:
        UserError: If the network is unknown or does not have an option that is set.
    """
    resolved = configuration.to_dict(config)
    moments = augment.pixel_moments(dataset.train.images)
    resolved["dataset"] |= {
        "fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.train.images.shape[1:]),
        "train_examples": len(dataset.train.labels),
        "eval_examples": len(dataset.eval.labels),
        "mean": list(moments.mean),
        "std": list(moments.std),
    }
    if resolved["model"]["dtype"] == "auto":
        resolved["model"]["dtype"] = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model = model_of(resolved)
    for option in models.options(config.model.name):
        resolved["model"][option] = getattr(model, option)
    return resolved


def model_of(resolved: dict[str, Any]) -> nn.Module:
    """Returns the network that config.json describes."""
    section = {key: value for key, value in resolved["model"].items() if value is not None}
    name, dtype = section.pop("name"), jnp.dtype(section.pop("dtype"))
    classes = len(resolved["dataset"]["class_names"])
    return models.create(name, num_classes=classes, dtype=dtype, **section)


def moments_of(resolved: dict[str, Any]) -> augment.Moments:
    """Returns the pixel moments that config.json holds."""
    section = resolved["dataset"]
    return augment.Moments(tuple(section["mean"]), tuple(section["std"]))
