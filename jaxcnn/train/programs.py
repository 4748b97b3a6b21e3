"""The compiled programs of a run and the data they read: this is where `jit` is applied."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

from jaxcnn.config.settings import Layout
from jaxcnn.data import Dataset, batches
from jaxcnn.data.augment import PixelStats
from jaxcnn.runtime import sharding as parallel
from jaxcnn.runtime.compilation import compiled, init_compiler_options
from jaxcnn.train import feed, metrics
from jaxcnn.train import step as steps
from jaxcnn.train.optim import Optimizer


class Call(NamedTuple):
    """Arguments of one call of the training program: the batches of `steps` steps."""

    batch: feed.Batch
    steps: int


def _of_whole_gradients(optimizer: Optimizer, whole: NamedSharding) -> Optimizer:
    """The optimizer with each gradient on every device before any part of it is updated.

    Without it XLA divides what computes the gradients as the optimizer's state is divided, and
    moves pieces of DenseNet's stacked norms between devices.
    """
    direction = optimizer.tx

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        grads = jax.lax.with_sharding_constraint(grads, jax.tree.map(lambda _: whole, grads))
        return direction.update(grads, state, params)

    whole_direction = optax.GradientTransformation(direction.init, update)
    return optimizer._replace(tx=whole_direction)


class Programs:
    """Initial state, training steps and evaluation, compiled ahead of time for one data set.

    All are compiled before the first step, so nothing is compiled in the middle of a run: a call
    with other shapes is an error.

    Attributes:
        template: Shapes, dtypes and shardings of the training state.
        layout: As given.
        resident: Whether the data set lies on the devices, else it is streamed.
        train_program: The compiled steps of a call.
        eval_program: The compiled evaluation step.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        augment: Callable[[jax.Array, jax.Array], jax.Array],
        pixel_stats: PixelStats,
        dataset: Dataset,
        mesh: Mesh,
        layout: Layout,
        label_smoothing: float,
        ema_decay: float,
        seed: int,
        max_nonfinite: int = 1,
    ) -> None:
        """Compiles for batches of `layout` over all devices of `mesh`."""
        self.layout, self._whole = layout, parallel.replicated(mesh)
        whole = self._whole
        self._init_key, self._key = jax.jit(
            lambda: jax.random.split(jax.random.key(seed)), out_shardings=whole
        )()
        self.resident = sum(map(feed.nbytes, (dataset.train, dataset.eval))) <= layout.data_bytes
        self._train = feed.create_source(dataset.train, mesh, layout.shape, self.resident)
        self._eval = feed.create_source(
            dataset.eval, mesh, (layout.eval_batch_size,), self.resident
        )
        self._eval_examples = len(dataset.eval.labels)

        if layout.shard_optimizer:
            optimizer = _of_whole_gradients(optimizer, whole)
        init = partial(
            steps.create_train_state,
            model=model,
            optimizer=optimizer,
            image_shape=dataset.train.images.shape[1:],
            ema=bool(ema_decay),
        )
        step = partial(
            steps.train_step,
            model=model,
            optimizer=optimizer,
            augment=augment,
            pixel_stats=pixel_stats,
            label_smoothing=label_smoothing,
            ema_decay=ema_decay,
            max_nonfinite=max_nonfinite,
            norm_groups=mesh.size if layout.local_norms else 1,
            devices=mesh.size,
        )
        shapes = jax.eval_shape(init, self._init_key)
        shardings = jax.tree.map(lambda _: whole, shapes)
        if layout.shard_optimizer:
            parts = parallel.split_where_possible(shapes.opt_state, mesh)
            shardings = dataclasses.replace(shardings, opt_state=parts)
        self.template = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        self._init = jax.jit(
            init, out_shardings=shardings, compiler_options=init_compiler_options()
        )
        call = step if layout.steps_per_call == 1 else partial(steps.train_steps, step=step)
        counts = () if layout.steps_per_call == 1 else (self._count(1),)
        image = dataset.train.images.shape[1:]
        batch = _batch(self._train, layout.shape, image)
        self.train_program = compiled(
            jax.jit(call, out_shardings=shardings, donate_argnums=0),
            (self.template, self._key, *batch, *counts),
        )
        size = (layout.eval_batch_size,)
        mask = jax.ShapeDtypeStruct(size, jnp.bool_, sharding=self._eval.sharding)
        self.eval_program = compiled(
            jax.jit(
                partial(steps.eval_step, model=model, pixel_stats=pixel_stats), out_shardings=whole
            ),
            (steps.evaluated_variables(self.template), *_batch(self._eval, size, image), mask),
        )

    def init(self) -> steps.TrainState:
        """Returns the state at step 0."""
        return self._init(self._init_key)

    def calls(self, order: np.ndarray) -> Iterator[Call]:
        """Yields the arguments of the calls that train on the batches of `order`, int32 `[n, B]`.

        Every process gives the whole order and sends the rows of its own devices.
        """
        most = self.layout.steps_per_call
        groups = [order[start : start + most] for start in range(0, len(order), most)]
        indices = (
            np.pad(group, ((0, most - len(group)), (0, 0))).reshape(self.layout.shape)
            for group in groups
        )
        sent = self._train.batches(indices)
        for group, batch in zip(groups, sent, strict=True):
            yield Call(batch, len(group))

    def train(self, state: steps.TrainState, call: Call) -> steps.TrainState:
        """Takes the steps of a call from `calls`; `state` is used up."""
        counts = () if self.layout.steps_per_call == 1 else (self._count(call.steps),)
        return self.train_program(state, self._key, *call.batch, *counts)

    def evaluate(
        self, state: steps.TrainState, on_batch: Callable[[jax.Array], None] = lambda count: None
    ) -> metrics.Sums:
        """Returns the metric sums over the whole evaluation split, every example once.

        Calls `on_batch` with the count so far after each batch, with at most one on its way.
        """
        variables = steps.evaluated_variables(state)
        total = self.no_sums()
        rows = list(batches.sequential_batches(self._eval_examples, self.layout.eval_batch_size))
        sent = self._eval.batches(indices for indices, _ in rows)
        for batch, (_, mask) in zip(sent, rows, strict=True):
            placed = parallel.place(mask, self._eval.sharding)
            sums = self.eval_program(variables, *batch, placed)
            before, total = total, metrics.add(total, sums)
            jax.block_until_ready(before)
            on_batch(total["count"])
        return total

    def begin_epoch(self, state: steps.TrainState) -> steps.TrainState:
        """Returns `state` with the sums and counts of an epoch at zero."""
        nonfinite = {**state.nonfinite, "skipped": self._count(0)}
        return dataclasses.replace(state, sums=self.no_sums(), nonfinite=nonfinite)

    def no_sums(self) -> metrics.Sums:
        """Returns the sums over no examples, on every device."""
        return jax.tree.map(
            lambda leaf: parallel.place(np.asarray(leaf), self._whole), metrics.zeros()
        )

    def _count(self, number: int) -> jax.Array:
        return parallel.place(np.asarray(number, np.int32), self._whole)


def _batch(
    source: feed.DeviceDataset, shape: tuple[int, ...], image: tuple[int, ...]
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Returns what `source` gives for indices of `shape`, as shapes, dtypes and shardings."""
    return (
        jax.ShapeDtypeStruct((*shape, *image), jnp.uint8, sharding=source.sharding),
        jax.ShapeDtypeStruct(shape, jnp.int32, sharding=source.sharding),
    )
