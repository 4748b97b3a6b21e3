"""Which parameters are alike: the groups that an optimizer may treat differently."""

from typing import Any

import jax

HEAD = "classifier"
"""Name of the layer that gives the logits, in every network."""

WHITENING = "whitening"
"""Name of the layer that whitens images, see `whitening`, in every network that has one."""

GROUPS = ("kernel", "depthwise", "head", "norm", "whitening")
"""Kernels of convolutions and dense layers; of depthwise convolutions; of the classifier; scales
and biases; the bias of a whitening layer."""


def parameter_group(path: tuple[Any, ...]) -> str:
    """Returns the group, one of `GROUPS`, of the parameter at a path of a network's "params".

    Args:
        path: Keys as `jax.tree_util.tree_map_with_path` gives them, such as those of
            "block1/depthwise_conv/kernel".
    """
    *layers, last = (entry.key for entry in path)
    if last != "kernel":
        return "whitening" if layers[-1:] == [WHITENING] else "norm"
    named = {"depthwise_conv": "depthwise", HEAD: "head"}
    return named.get(layers[-1] if layers else "", "kernel")


def is_head(path: str) -> bool:
    """Whether a path, such as "params/classifier/kernel", is that of a variable of the head."""
    return path.split("/")[-2:-1] == [HEAD]


def with_fixed(before: Any, after: Any) -> Any:
    """Returns the "batch_stats" `after`, but for kernels, which no step changes, as in `before`.

    See `whitening`. A mean of equal kernels may differ from them by rounding.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, old, new: old if path[-1].key == "kernel" else new, before, after
    )
