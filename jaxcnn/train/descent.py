"""How is a direction subtracted from the parameters: at one rate, or at one for each group?"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.config.schema import OptimConfig
from jaxcnn.models.groups import parameter_group
from jaxcnn.train.muon import is_orthogonalized, with_unit_filters

Descent = Callable[[Any, Any, jax.Array, jax.Array], Any]
"""From parameters, direction, learning rate and number of the step to new parameters."""


def descend(params: Any, direction: Any, rate: jax.Array, step: jax.Array) -> Any:
    """Subtracts the direction times the learning rate."""
    return optax.apply_updates(params, jax.tree.map(lambda d: -rate * d, direction))


def create_descent(config: OptimConfig, *, steps_per_epoch: int) -> Descent:
    """Returns `descend`, or what gives groups of parameters the rates of their own.

    Rates of groups are in proportion to the learning rate, by their peaks, so all of them follow
    one schedule. The one exception is the bias of a whitening layer with `whiten_bias_epochs`: it
    falls linearly to 0 in that time, and from then on the bias stays as it is.

    With "muon" a kernel of a convolution is scaled by `with_unit_filters` before, and the kernels
    that Muon does not move, depthwise and dense ones, have the classifier's rate.

    Args:
        config: The section `optim`.
        steps_per_epoch: Optimizer steps of an epoch.
    """
    is_muon = config.name == "muon"
    if not is_muon and config.head_lr is config.bias_lr is None and not config.whiten_bias_epochs:
        return descend
    peaks = {"norm": config.bias_lr, "whitening": config.bias_lr, "head": config.head_lr}
    if is_muon:
        peaks |= {"kernel": config.head_lr, "depthwise": config.head_lr}
    whitening_steps = math.ceil(config.whiten_bias_epochs * steps_per_epoch)

    def by_group(params: Any, direction: Any, rate: jax.Array, step: jax.Array) -> Any:
        def new(path: tuple[Any, ...], leaf: jax.Array, change: jax.Array) -> jax.Array:
            if is_muon and is_orthogonalized(path, leaf):
                return with_unit_filters(leaf) - rate * change
            group = parameter_group(path)
            peak = peaks.get(group)
            peak = config.peak_lr if peak is None else peak
            if group == "whitening" and whitening_steps:
                left = jnp.maximum(0, 1 - jnp.float32(step) / whitening_steps)
                return leaf - peak * left * change
            return leaf - peak / config.peak_lr * rate * change

        return jax.tree_util.tree_map_with_path(new, params, direction)

    return by_group
