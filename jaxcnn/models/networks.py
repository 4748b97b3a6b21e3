"""The networks by name: `create("resnet18")` gives a flax module."""

from typing import Any

from flax import linen as nn

from jaxcnn.errors import UserError
from jaxcnn.models import densenet, layers, lenet, mobilenet, resnet, speedrun

_FAMILIES = {
    "lenet": lenet,
    "resnet": resnet,
    "densenet": densenet,
    "mobilenet": mobilenet,
    "speedrun": speedrun,
}

FAMILY = {name: family for family, module in _FAMILIES.items() for name in module.VARIANTS}
"""Family of each variant, those of the study first, in its order."""


def create(
    name: str,
    num_classes: int = 10,
    remat: bool = False,
    ops: str = "fast",
    norm_groups: int = 1,
    norm_momentum: float = layers.NORM_MOMENTUM,
    **fields: Any,
) -> nn.Module:
    """Returns the network called `name`, without parameters.

    Args:
        name: A key of `FAMILY`.
        num_classes: Number of classes, K.
        remat: Recompute each block in the backward pass: less memory, more time, same numbers.
        ops: "fast" for `jaxcnn.ops`, "stock" for the primitives of lax and the arithmetic of flax,
            layer by layer.
        norm_groups: Equal parts of a batch, each of which is normalized by its own statistics in
            training; 1 normalizes over the whole batch.
        norm_momentum: Kept fraction of the norms' running statistics, at each step.
        **fields: `dtype`, the compute dtype, and the options of the family, such as `width`.

    Returns:
        A module whose `init(key, images, train=False)` and `apply(variables, images, train=...)`
        take float32 `[B, H, W, C]`; `apply` returns float32 logits `[B, K]`.

    Raises:
        UserError: If there is no such network, or it has no such option or no blocks, or `ops` or
            `norm_groups` are not allowed.
    """
    if name not in FAMILY:
        raise UserError(f"model.name={name!r} is unknown; known networks: {', '.join(FAMILY)}")
    allowed = options(name)
    for key in fields:
        if key != "dtype" and key not in allowed:
            has = f"its options: {', '.join(allowed)}" if allowed else "it has none"
            raise UserError(f"model.{key} is no option of {name}; {has}; leave model.{key} unset")
    if ops not in layers.OPS:
        raise UserError(f"ops={ops!r} is unknown; choose one of {', '.join(layers.OPS)}")
    if norm_groups < 1:
        raise UserError(f"norm_groups={norm_groups} must be 1 (the whole batch) or more")
    module, row = _FAMILIES[FAMILY[name]].VARIANTS[name]
    if remat:
        if FAMILY[name] == "lenet":
            raise UserError(
                f"train.remat=True: {name} has no blocks to recompute; use "
                "train.grad_accum_steps to save memory"
            )
        fields["remat"] = True
    common = {"num_classes": num_classes, "ops": ops}
    common |= {"norm_groups": norm_groups, "norm_momentum": norm_momentum}
    return module(**{**common, **row, **fields})


def options(name: str) -> tuple[str, ...]:
    """The fields of the network called `name` that a user may set, beyond `dtype`."""
    return _FAMILIES[FAMILY[name]].OPTIONS


def remat_saves_memory(name: str, drop_rate: float | None, platform: str) -> bool:
    """Whether `remat` lowers the memory of a training step of the network called `name`.

    LeNet has no blocks. Without dropout, DenseNet's dense block on the CPU is one operation that
    recomputes its layers anyway.
    """
    family = FAMILY[name]
    return family != "lenet" and not (family == "densenet" and platform == "cpu" and not drop_rate)
