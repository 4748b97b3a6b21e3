"""The optimizer and its learning-rate schedule."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from jaxcnn.config.schema import OptimConfig
from jaxcnn.train.decay import weight_decay
from jaxcnn.train.descent import Descent, create_descent, descend
from jaxcnn.train.lookahead import Finish, lookahead, unchanged
from jaxcnn.train.muon import muon
from jaxcnn.train.schedules import create_schedule


class Optimizer(NamedTuple):
    """An update direction and a learning rate that depends on the step alone.

    The step subtracts `learning_rate(step) * direction`, as `descend` does it. The rate is not part
    of the optax chain, which would count steps once more: `state.step` is the only clock. What
    `finish` makes of the new parameters and the optimizer's state ends the step.
    """

    tx: optax.GradientTransformation
    learning_rate: Callable[[jax.typing.ArrayLike], jax.Array]
    finish: Finish = unchanged
    descend: Descent = descend


def create_optimizer(config: OptimConfig, *, epochs: int, steps_per_epoch: int) -> Optimizer:
    """Returns the optimizer that the section `optim` of the configuration describes.

    Weight decay acts on kernels only, unless asked otherwise. It is the gradient of an L2
    penalty, added before momentum, but for "adamw" decoupled (Loshchilov & Hutter 2019,
    arXiv:1711.05101).

    Args:
        config: The section.
        epochs: Of the training, over which the learning rate falls.
        steps_per_epoch: Optimizer steps of an epoch.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    decay = weight_decay(config)
    if config.name == "sgd":
        tx = optax.chain(clip, decay, optax.trace(config.momentum, nesterov=config.nesterov))
    elif config.name == "muon":
        both = {"momentum": config.momentum, "sgd_momentum": config.sgd_momentum}
        tx = optax.chain(clip, decay, muon(**both, nesterov=config.nesterov))
    else:
        adam = optax.scale_by_adam(config.momentum, config.second_moment)
        tx = optax.chain(clip, adam, decay)
    rate = create_schedule(
        config.schedule,
        peak_lr=config.peak_lr,
        # A longer warm-up is that of a training which may still be prolonged.
        warmup_steps=round(min(config.warmup_epochs, epochs) * steps_per_epoch),
        total_steps=epochs * steps_per_epoch,
        milestones=config.milestones,
        decay_factor=config.decay_factor,
        peak_at=config.peak_at,
        cooldown=config.cooldown,
    )
    finish: Finish = unchanged
    if config.lookahead_steps:
        tx, finish = lookahead(tx, config.lookahead_steps, config.lookahead_alpha)
    return Optimizer(tx, rate, finish, create_descent(config, steps_per_epoch=steps_per_epoch))


def constant_sgd(peak_lr: float, weight_decay: float = 0.0) -> Optimizer:
    """Returns SGD with Nesterov momentum 0.9 at one rate, for measurements and tests."""
    config = OptimConfig(
        peak_lr=peak_lr, weight_decay=weight_decay, schedule="constant", warmup_epochs=0.0
    )
    return create_optimizer(config, epochs=1, steps_per_epoch=1)
