"""From a configuration and its data to config.json, and from config.json back to a network.

config.json holds all that shaped the run: nothing in it is "auto" or unset, and the facts of the
data set that the network depends on (classes, image shape, pixel moments) stand beside the choices.
Whatever reads a run needs this file alone.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import config_dict

from jaxcnn import models
from jaxcnn.config import schema
from jaxcnn.data import Dataset, augment

# Steps of one compiled call, by platform, where the configuration leaves it open. On the CPU more
# than one gain nothing beyond noise (LeNet -1 to +2 %, MobileNet -2 to +4 % with 4 and 16; 2 shared
# cores, jax 0.10.2, medians of 5 turns). On a GPU or TPU a small network's step takes less time
# than Python needs to send the next one off; not measured there.
STEPS_PER_CALL = {"cpu": 1, "gpu": 8, "tpu": 8}


class Layout(NamedTuple):
    """How steps are cut and laid out; none of it changes what a step computes, but for the norms.

    Attributes:
        batch_size: Images of a step, over all devices.
        eval_batch_size: Images of an evaluation step.
        grad_accum_steps: Micro-batches of a step, one after another.
        steps_per_call: Steps of one compiled call.
        local_norms: Batch norm over each device's part in place of the whole (micro-)batch.
        shard_optimizer: Each device keeps a part of the optimizer's state.
        data_bytes: A data set of more is streamed from host memory.
    """

    batch_size: int
    eval_batch_size: int
    grad_accum_steps: int = 1
    steps_per_call: int = 1
    local_norms: bool = False
    shard_optimizer: bool = False
    data_bytes: float = 2e9

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the indices of a call: [steps, micro-batches, images], less axes of 1."""
        leading = [n for n in (self.steps_per_call, self.grad_accum_steps) if n > 1]
        return (*leading, self.batch_size // self.grad_accum_steps)


def resolve(config: config_dict.ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Returns the content of config.json.

    Raises:
        UserError: If the network is unknown or does not have an option that is set.
    """
    resolved = schema.to_dict(config)
    moments = augment.pixel_stats(dataset.train.images)
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
    if resolved["train"]["steps_per_call"] == 0:
        resolved["train"]["steps_per_call"] = STEPS_PER_CALL.get(jax.default_backend(), 1)
    model = model_of(resolved)
    for option in models.options(config.model.name):
        resolved["model"][option] = getattr(model, option)
    return resolved


def model_of(resolved: dict[str, Any]) -> nn.Module:
    """Returns the network that config.json describes."""
    dtype = jnp.dtype(resolved["model"]["dtype"])
    return _network(resolved, num_classes=len(resolved["dataset"]["class_names"]), dtype=dtype)


def check_network(config: config_dict.ConfigDict) -> None:
    """Raises UserError if the network is unknown or does not have an option; needs no data."""
    _network(schema.to_dict(config))


def _network(settings: dict[str, Any], **fields: Any) -> nn.Module:
    section = {key: value for key, value in settings["model"].items() if value is not None}
    name = section.pop("name")
    # The data type may be open yet; how batch norm is cut is the training's own, see `layout_of`.
    del section["dtype"], section["batch_norm"]
    return models.create(name, remat=settings["train"]["remat"], **fields, **section)


def layout_of(resolved: dict[str, Any]) -> Layout:
    """Returns how steps are cut and laid out."""
    train = resolved["train"]
    return Layout(
        batch_size=train["batch_size"],
        eval_batch_size=train["eval_batch_size"],
        grad_accum_steps=train["grad_accum_steps"],
        steps_per_call=train["steps_per_call"],
        local_norms=resolved["model"]["batch_norm"] == "local",
        shard_optimizer=train["shard_optimizer"],
        data_bytes=train["data_gigabytes"] * 1e9,
    )


def pixel_stats_of(resolved: dict[str, Any]) -> augment.PixelStats:
    """Returns the pixel moments that config.json holds."""
    section = resolved["dataset"]
    return augment.PixelStats(tuple(section["mean"]), tuple(section["std"]))
