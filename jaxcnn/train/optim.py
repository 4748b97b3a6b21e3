"""The optimizer and its learning-rate schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcnn.config.schema import OptimConfig


class Optimizer(NamedTuple):
    """An update direction and a learning rate that depends on the step alone.

    The step subtracts `learning_rate(step) * direction`. The rate is not part of the optax chain,
    which would count steps once more: `state.step` is the only clock.
    """

    tx: optax.GradientTransformation
    learning_rate: Callable[[jax.typing.ArrayLike], jax.Array]


def create_optimizer(config: OptimConfig, *, epochs: int, steps_per_epoch: int) -> Optimizer:
    """Returns the optimizer that the section `optim` of the configuration describes.

    Weight decay acts on kernels only: decaying the scales and biases of norms costs accuracy
    (He et al. 2019, arXiv:1812.01187, sec. 3.1). For "sgd" it is the gradient of an L2 penalty,
    added before momentum; for "adamw" it is decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Args:
        config: The section.
        epochs: Of the training, over which the learning rate falls.
        steps_per_epoch: Optimizer steps of an epoch.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    decay = optax.add_decayed_weights(config.weight_decay, mask=kernels_only)
    if config.name == "sgd":
        tx = optax.chain(clip, decay, optax.trace(config.momentum, nesterov=config.nesterov))
    else:
        adam = optax.scale_by_adam(config.momentum, config.second_moment)
        tx = optax.chain(clip, adam, decay)
    rate = create_schedule(
        config.schedule,
        peak_lr=config.peak_lr,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        total_steps=epochs * steps_per_epoch,
        milestones=config.milestones,
        decay_factor=config.decay_factor,
    )
    return Optimizer(tx, rate)


def constant_sgd(peak_lr: float, weight_decay: float = 0.0) -> Optimizer:
    """Returns SGD with Nesterov momentum 0.9 at one rate, for measurements and tests."""
    config = OptimConfig(
        peak_lr=peak_lr, weight_decay=weight_decay, schedule="constant", warmup_epochs=0.0
    )
    return create_optimizer(config, epochs=1, steps_per_epoch=1)


def create_schedule(
    name: str,
    *,
    peak_lr: float,
    warmup_steps: int,
    total_steps: int,
    milestones: tuple[float, ...],
    decay_factor: float,
) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Returns the learning rate as a function of the step, int32 [] from 0 on.

    All rise linearly over `warmup_steps` (Goyal et al. 2017, arXiv:1706.02677, sec. 2.2); step 0
    already has 1 / warmup_steps of the peak, since a step at rate 0 would be lost. Then "cosine"
    falls to 0 at `total_steps` (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, one cycle),
    "multistep" multiplies by `decay_factor` at each of `milestones` * total_steps, and "constant"
    stays.
    """
    after = total_steps - warmup_steps
    if name == "cosine":
        body = optax.cosine_decay_schedule(peak_lr, max(after, 1))
    elif name == "multistep":
        drops = {round(m * total_steps) - warmup_steps: decay_factor for m in milestones}
        body = optax.piecewise_constant_schedule(peak_lr, drops)
    else:
        body = optax.constant_schedule(peak_lr)

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.int32)
        warm = peak_lr * (step + 1) / max(warmup_steps, 1)
        return jnp.where(step < warmup_steps, warm, body(step - warmup_steps)).astype(jnp.float32)

    return rate


def kernels_only(params: Any) -> Any:
    """Returns a tree of bools: True for the kernels of convolutions and dense layers."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
