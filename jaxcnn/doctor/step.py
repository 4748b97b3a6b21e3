"""Does a training step compute the right numbers? As compiled for a run, against the stock path.

Both take the same step from the same state on the same batch, the run's whole batch, since the
algorithms are chosen by its size. The stock path is `models.create(..., ops="stock")`: the
primitives of lax, which share no algorithm with `jaxcnn.ops`, in float32. (In float64 XLA has only
plain loops for convolutions, with which a step would take minutes.)
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset, batches
from jaxcnn.runtime.sharding import place
from jaxcnn.train import metrics
from jaxcnn.train.optim import create_optimizer
from jaxcnn.train.programs import Programs
from jaxcnn.train.step import TrainState


class Bounds(NamedTuple):
    """How far the two may be apart: norm of an array's difference over the array's own norm.

    Attributes:
        loss: The mean loss, which has the whole forward pass behind it.
        statistic: Running means and variances of the norms.
        gradient: Sums in another order differ in their last bits; then a few activations near zero
            pass the ReLU on one path only, and each of them moves the gradients of all layers
            below. In deep networks that adds up to a few percent.
    """

    loss: float
    statistic: float
    gradient: float


# bfloat16 is compared with float32. Its numbers are so coarse that gradients of the first layers
# keep little more than their direction: there the loss and the statistics are what counts.
BOUNDS = {
    "float32": Bounds(loss=1e-5, statistic=1e-3, gradient=1e-1),
    "bfloat16": Bounds(loss=1e-2, statistic=5e-2, gradient=1.2),
}
_LAST_BIT = 2.0**-23  # of a parameter, in which an update may be small


class Difference(NamedTuple):
    """What the two paths give for one array.

    Attributes:
        name: Of the array: "loss", or what it is and its layer.
        apart: Norm of the difference over the norm of the stock path's array.
        most: What `apart` may be.
        got: The element that is farthest off, as compiled for a run.
        expected: That element of the stock path.
    """

    name: str
    apart: float
    most: float
    got: float
    expected: float

    @property
    def is_wrong(self) -> bool:
        """Whether it is farther off than rounding explains; so is what is not finite."""
        return not self.apart <= self.most


def compile_stock(settings: Settings, dataset: Dataset, mesh: Mesh) -> Programs:
    """Returns the programs of the same run by the stock path, in float32."""
    optimizer = create_optimizer(
        settings.optim, epochs=settings.train.epochs, steps_per_epoch=settings.steps_per_epoch
    )
    model = settings.create_model().clone(ops="stock", dtype=jnp.float32)
    return Programs(settings, model, optimizer, dataset, mesh)


def compare(programs: Programs, stock: Programs, dataset: Dataset) -> list[Difference]:
    """Returns the differences after a step and of an evaluation, the losses first.

    Args:
        programs: As compiled for a run.
        stock: From `compile_stock`.
        dataset: Their data; the first batch of the run is used, and the whole evaluation split.
    """
    settings = programs.settings
    before = _stirred(jax.device_get(programs.init()))
    order = batches.shuffled_batches(
        settings.seed, 0, len(dataset.train.labels), settings.train.batch_size
    )[:1]
    ours, theirs = (metrics.means(p.evaluate(_placed(p, before)))[0] for p in (programs, stock))
    found = [_difference("evaluation loss", ours, theirs, BOUNDS[settings.model.dtype].loss)]
    got, expected = (_step(each, before, order) for each in (programs, stock))
    return [*found, *_differences(settings, before, got, expected)]


def _step(programs: Programs, state: TrainState, order: np.ndarray) -> TrainState:
    """Returns the state after a step on the batch of `order`, int32 [1, B], in host memory."""
    (call,) = programs.calls(order)
    after: TrainState = jax.device_get(programs.train(_placed(programs, state), call))
    return after


def _placed(programs: Programs, state: TrainState) -> TrainState:
    placed: TrainState = jax.tree.map(
        lambda leaf, to: place(leaf, to.sharding), state, programs.template
    )
    return placed


def _stirred(state: TrainState) -> TrainState:
    """Returns a state with biases, norms and running statistics not 0 and 1, kernels no identity.

    What multiplies by one or adds zero may be wrong without a trace.
    """
    rng = np.random.default_rng(0)

    def stirred(leaf: np.ndarray) -> np.ndarray:
        # Kernels that begin as the identity would leave pixels equal, and rounding would decide
        # which of them a max-pool takes.
        most = 0.3 if leaf.ndim <= 1 else 0.3 * leaf.std()
        return leaf + rng.uniform(-most, most, leaf.shape).astype(leaf.dtype)

    return dataclasses.replace(
        state,
        params=jax.tree.map(stirred, state.params),
        batch_stats=jax.tree.map(stirred, state.batch_stats),
    )


def _differences(
    settings: Settings, before: TrainState, got: TrainState, expected: TrainState
) -> Iterator[Difference]:
    """Yields the difference of each array that the step gives."""
    bounds, size = BOUNDS[settings.model.dtype], settings.train.batch_size
    loss, expected_loss = (np.asarray(state.sums["loss"]) / size for state in (got, expected))
    yield _difference("loss", loss, expected_loss, bounds.loss)
    # A first step leaves the gradient, with its weight decay, in the optimizer's averages.
    parts = [
        ("running statistic", bounds.statistic, got.batch_stats, expected.batch_stats),
        ("gradient", bounds.gradient, got.opt_state, expected.opt_state),
    ]
    if settings.optim.name == "sgd":  # adamw divides gradients by their size, those of noise too
        updates = (_update(before, after) for after in (got, expected))
        parts.append(("update", bounds.gradient, *updates))
    for kind, bound, ours, stock in parts:
        floors = before.params if kind == "update" else jax.tree.map(np.zeros_like, stock)
        for (path, a), b, floor in zip(
            jax.tree_util.tree_leaves_with_path(ours),
            jax.tree.leaves(stock),
            jax.tree.leaves(floors),
            strict=True,
        ):
            if np.issubdtype(b.dtype, np.floating):
                layer = "/".join(entry.key for entry in path if hasattr(entry, "key"))
                yield _difference(f"{kind} of {layer}", a, b, bound, floor)


def _update(before: TrainState, after: TrainState) -> Any:
    """Returns what a step has added to the parameters."""
    return jax.tree.map(lambda new, old: new.astype(np.float64) - old, after.params, before.params)


def _difference(name: str, got: Any, expected: Any, most: float, floor: Any = 0.0) -> Difference:
    a, b = np.atleast_1d(got).astype(np.float64), np.atleast_1d(expected).astype(np.float64)
    off = np.nan_to_num(np.abs(a - b), nan=np.inf)
    rounding = _LAST_BIT * float(np.linalg.norm(floor))
    scale = float(np.linalg.norm(b))
    distance = float(np.linalg.norm(off))
    # What the rounding of the array itself explains is no difference. Only zero stands for zero.
    beyond = max(distance - rounding, 0.0)
    apart = beyond / scale if scale else np.inf if beyond else 0.0
    at = np.unravel_index(np.argmax(off), off.shape)
    return Difference(name, apart, most, float(a[at]), float(b[at]))
