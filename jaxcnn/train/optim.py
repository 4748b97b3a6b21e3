"""The optimizer: which direction a step takes, and how far."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Optimizer(NamedTuple):
    """An update direction and a learning rate that depends on the step alone.

    The step subtracts `learning_rate(step) * direction`. The rate is not part of the optax chain,
    which would count steps once more: `state.step` is the only clock.
    """

    tx: optax.GradientTransformation
    learning_rate: Callable[[jax.typing.ArrayLike], jax.Array]


def create_optimizer(
    *,
    name: str,
    peak_lr: float,
    momentum: float,
    nesterov: bool,
    second_moment: float,
    weight_decay: float,
    clip_norm: float,
    schedule: str,
    warmup_epochs: float,
    milestones: tuple[float, ...],
    decay_factor: float,
    epochs: int,
    steps_per_epoch: int,
) -> Optimizer:
    """Returns the optimizer that the arguments describe; see `config.FIELDS` for their meaning.

    Weight decay acts on kernels only: decaying the scales and biases of norms costs accuracy
    (He et al. 2019, arXiv:1812.01187, sec. 3.1). For "sgd" it is the gradient of an L2 penalty,
    added before momentum; for "adamw" it is decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101).
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    decay = optax.add_decayed_weights(weight_decay, mask=kernels_only)
    if name == "sgd":
        tx = optax.chain(clip, decay, optax.trace(momentum, nesterov=nesterov))
    else:
        tx = optax.chain(clip, optax.scale_by_adam(momentum, second_moment), decay)
    rate = create_schedule(
        schedule,
        peak_lr=peak_lr,
        warmup_steps=round(warmup_epochs * steps_per_epoch),
        total_steps=epochs * steps_per_epoch,
        milestones=milestones,
        decay_factor=decay_factor,
    )
    return Optimizer(tx, rate)


def constant_sgd(peak_lr: float, weight_decay: float = 0.0) -> Optimizer:
    """Returns SGD with Nesterov momentum 0.9 at one rate, for measurements and tests."""
    return create_optimizer(
        name="sgd",
        peak_lr=peak_lr,
        momentum=0.9,
        nesterov=True,
        second_moment=0.999,
        weight_decay=weight_decay,
        clip_norm=0.0,
        schedule="constant",
        warmup_epochs=0.0,
        milestones=(),
        decay_factor=0.1,
        epochs=1,
        steps_per_epoch=1,
    )


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
