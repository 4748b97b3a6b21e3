"""Which parameters are alike: the groups that an optimizer may treat differently."""

from typing import Any

HEAD = "classifier"
"""Name of the layer that gives the logits, in every network."""

GROUPS = ("kernel", "depthwise", "head", "norm")
"""Kernels of convolutions and dense layers; of depthwise convolutions; of the classifier; then all
scales and biases."""


def parameter_group(path: tuple[Any, ...]) -> str:
    """Returns the group, one of `GROUPS`, of the parameter at a path of a network's "params".

    Args:
        path: Keys as `jax.tree_util.tree_map_with_path` gives them, such as those of
            "block1/depthwise_conv/kernel".
    """
    *layers, last = (entry.key for entry in path)
    if last != "kernel":
        return "norm"
    named = {"depthwise_conv": "depthwise", HEAD: "head"}
    return named.get(layers[-1] if layers else "", "kernel")


def is_head(path: str) -> bool:
    """Whether a path, such as "params/classifier/kernel", is that of a variable of the head."""
    return path.split("/")[-2:-1] == [HEAD]
