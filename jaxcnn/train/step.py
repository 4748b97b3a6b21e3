"""The pure functions of training: initial state, one step, one evaluation step.

None of them is jitted here; `programs` does that.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxcnn.data.augment import PixelStats, normalize
from jaxcnn.data.augmentations.mixing import Mix
from jaxcnn.train import metrics, recipe
from jaxcnn.train.gradients import loss_and_grads
from jaxcnn.train.optim import Optimizer


@struct.dataclass
class TrainState:
    """The complete state of a run at a step; a step is a function of this and the data.

    Attributes:
        step: int32 [], steps taken; the only clock.
        params: float32 parameters.
        batch_stats: float32 running means and variances of the norms; {} without norms.
        opt_state: State of the optimizer's direction.
        ema: Averaged {"params", "batch_stats"}; {} when switched off.
        sums: Metrics of the current epoch's steps so far.
        nonfinite: Numbers of steps that changed nothing because their loss or gradient was not
            finite: `skipped` int32 [] in the current epoch, `in_a_row` int32 [] up to now.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    sums: metrics.Sums
    nonfinite: dict[str, jax.Array]


def create_train_state(
    key: jax.Array,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    image_shape: tuple[int, int, int],
    ema: bool = False,
) -> TrainState:
    """Returns the state at step 0 for images of `image_shape`, (H, W, C)."""
    variables = model.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    average = {"params": params, "batch_stats": batch_stats}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.tx.init(params),
        ema=jax.tree.map(jnp.copy, average) if ema else {},  # a donated state must not alias
        sums=metrics.zeros(),
        nonfinite={"skipped": jnp.int32(0), "in_a_row": jnp.int32(0)},
    )


class Objective(NamedTuple):
    """What training minimizes: the mean smoothed cross-entropy of a network on normalized images.

    Attributes:
        model: A network from `models.create`.
        pixel_stats: Of the training split's pixels.
        label_smoothing: See `metrics.cross_entropy`.
        mix: From `mixing.create_mix`; a mixed image counts as a hit of its heavier class.
        class_weights: A number for each class, see `recipe.cross_entropy`; None for equal ones.
    """

    model: nn.Module
    pixel_stats: PixelStats
    label_smoothing: float = 0.0
    mix: Mix | None = None
    class_weights: tuple[float, ...] | None = None


def train_step(
    state: TrainState,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    objective: Objective,
    optimizer: Optimizer,
    augment: Callable[[jax.Array, jax.Array], jax.Array],
    ema_decay: recipe.Decay = 0.0,
    max_nonfinite: int = 1,
    devices: int = 1,
) -> TrainState:
    """Takes one optimizer step on one batch.

    If the loss, a gradient or a running statistic of a norm is not finite, nothing changes except
    the step count. From the `max_nonfinite`-th such step in a row on, the count does not change
    either, nor does any later step: the state remains that before the failing step, however many
    more steps the host has dispatched before it reads the state.

    Args:
        state: The state before the step.
        key: The run's key; the step's own randomness is `fold_in(key, state.step)`.
        images: uint8 `[B, H, W, C]`, or A micro-batches `[A, B / A, H, W, C]`.
        labels: int32 `[B]` or `[A, B / A]`.
        objective: What is minimized.
        optimizer: From `optim.create_optimizer`.
        augment: From `augment.create_augment`.
        ema_decay: See `recipe.averaged`; 0 for no averages.
        max_nonfinite: From 1 on; 1 stops at the first such step.
        devices: Number of devices that share the batch.

    Returns:
        The state after the step, with the batch added to its sums.
    """
    model, pixel_stats, smoothing, mix, weights = objective
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    images, targets = recipe.mixed(mix, augment_key, augment(augment_key, images), labels)
    grads, losses, logits, batch_stats = loss_and_grads(
        state.params,
        state.batch_stats,
        images,
        targets,
        dropout_key,
        model=model,
        preprocess=lambda images: normalize(images, pixel_stats),
        loss=lambda logits, targets: recipe.cross_entropy(logits, targets, smoothing, weights),
    )
    rate = optimizer.learning_rate(state.step)

    def with_step() -> TrainState:
        direction, opt_state = optimizer.tx.update(grads, state.opt_state, state.params)
        params = optimizer.descend(state.params, direction, rate, state.step)
        params, opt_state = optimizer.finish(params, opt_state, state.step)
        ema = recipe.averaged(state.ema, params, batch_stats, ema_decay, state.step)
        mask, hits = jnp.ones_like(labels, bool), recipe.main_labels(targets)
        return TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=ema,
            sums=metrics.add(state.sums, metrics.sums(losses, logits, hits, mask)),
            nonfinite={**state.nonfinite, "in_a_row": jnp.int32(0)},
        )

    going = state.nonfinite["in_a_row"] < max_nonfinite
    taken = going & _all_finite((losses, grads, batch_stats), devices)
    # A branch, not a `where` for each array: XLA would put the whole test into the kernel of every
    # array that depends on it, which multiplies the time to compile.
    return jax.lax.cond(taken, with_step, lambda: _without_step(state, going, max_nonfinite))


def train_steps(
    state: TrainState, key: jax.Array, *batch_and_count: jax.Array, step: Callable[..., TrainState]
) -> TrainState:
    """Takes the first `count` of S steps in one program.

    The number is a value, not a shape: the same compiled loop body serves the shorter last call of
    an epoch and a run that is resumed in its middle, so the result does not depend, in any bit, on
    where calls begin.

    Args:
        state: The state before.
        key: The run's key.
        *batch_and_count: The arrays of the batch, each with S in front: images uint8
            `[S, ..., B, H, W, C]`, labels int32 `[S, ..., B]`; then the count, int32 [].
        step: `train_step` with all its keyword arguments.
    """
    *batch, count = batch_and_count

    def body(index: jax.Array, state: TrainState) -> TrainState:
        return step(state, key, *(array[index] for array in batch))

    return jax.lax.fori_loop(0, count, body, state)


# Elements up to which arrays are tested together: each array of its own takes three kernels, which
# is most of what a deep network has to compile.
_SMALL = 1 << 16


def _all_finite(tree: Any, devices: int) -> jax.Array:
    """Returns whether all numbers of all arrays are finite, bool [].

    On several devices each array is tested separately: XLA would shard the concatenation, and with
    it what it is made of, and then gather the gradients.
    """
    leaves = jax.tree.leaves(tree)
    if devices == 1:
        small = jnp.concatenate([leaf.ravel() for leaf in leaves if leaf.size <= _SMALL])
        small = jax.lax.optimization_barrier(small)
        leaves = [leaf for leaf in leaves if leaf.size > _SMALL] + [small]
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
    return jnp.stack(jax.lax.optimization_barrier(finite)).all()


def _without_step(state: TrainState, going: jax.Array, max_nonfinite: int) -> TrainState:
    """Returns `state` with one more skipped step; unchanged unless `going`."""
    in_a_row = state.nonfinite["in_a_row"] + going
    skips = (in_a_row < max_nonfinite).astype(jnp.int32)  # else it is the step to stop before
    return dataclasses.replace(
        state,
        step=state.step + skips,
        nonfinite={"skipped": state.nonfinite["skipped"] + skips, "in_a_row": in_a_row},
    )


def stopped(state: TrainState, max_nonfinite: int) -> TrainState | None:
    """Returns the state before the step that ends the run, or None if there was none."""
    if int(state.nonfinite["in_a_row"]) < max_nonfinite:
        return None
    in_a_row = state.nonfinite["in_a_row"] - 1  # as it was before that step
    return dataclasses.replace(state, nonfinite={**state.nonfinite, "in_a_row": in_a_row})


def evaluated_variables(state: TrainState) -> dict[str, Any]:
    """Returns the variables that are evaluated: the averaged ones if there are any."""
    return state.ema or {"params": state.params, "batch_stats": state.batch_stats}


def eval_step(
    variables: dict[str, Any],
    images: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    model: nn.Module,
    pixel_stats: PixelStats,
) -> metrics.Sums:
    """Returns the metric sums of the rows of a batch where `mask`, bool `[B]`, is True."""
    logits: Any = model.apply(variables, normalize(images, pixel_stats), train=False)
    losses = metrics.cross_entropy(logits, labels)
    return metrics.sums(losses, logits, labels, mask)
