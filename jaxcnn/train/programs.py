"""The compiled programs of a run and the data they read: this is where `jit` is applied."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

from jaxcnn.config import class_weights
from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset, batches
from jaxcnn.data.augmentations.pipeline import create_augmentation
from jaxcnn.runtime import memory
from jaxcnn.runtime.compilation import compiled, init_compiler_options, timed
from jaxcnn.runtime.sharding import place, replicated, split_where_possible
from jaxcnn.train import feed, from_data, metrics, recipe
from jaxcnn.train.optim import Optimizer
from jaxcnn.train.step import (
    Objective,
    TrainState,
    create_train_state,
    eval_step,
    evaluated_variables,
    train_step,
    train_steps,
)


class Call(NamedTuple):
    """Arguments of one call of the training program: the batches of `steps` steps."""

    batch: feed.Batch
    steps: int


def _of_whole_gradients(optimizer: Optimizer, whole: NamedSharding) -> Optimizer:
    """Returns the optimizer with each gradient on every device before any part of it is updated.

    Without it XLA divides what computes the gradients as the optimizer's state is divided, and
    moves pieces of DenseNet's stacked norms between devices.
    """
    tx = optimizer.tx

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        grads = jax.lax.with_sharding_constraint(grads, jax.tree.map(lambda _: whole, grads))
        return tx.update(grads, state, params)

    return optimizer._replace(tx=optax.GradientTransformation(tx.init, update))


class Programs:
    """Initial state, training steps and evaluation, compiled ahead of time for one data set.

    Everything is compiled before the first step, so that nothing is compiled in the middle of a
    run: a call with other shapes is an error. One compiled call may take several steps; the state
    it gets is donated, so that its memory becomes the new state's.

    Attributes:
        settings: As given.
        optimizer: As given.
        mesh: As given.
        template: Shapes, dtypes and shardings of the training state.
        resident: Whether the data set lies on the devices, else it is streamed.
        train_program: The compiled steps of a call.
        eval_program: The compiled evaluation step.
        seconds: How long each program took to compile.
    """

    def __init__(
        self,
        settings: Settings,
        model: nn.Module,
        optimizer: Optimizer,
        dataset: Dataset,
        mesh: Mesh,
    ) -> None:
        """Compiles for the batches of `settings` over all devices of `mesh`."""
        self.settings, self.optimizer, self.mesh = settings, optimizer, mesh
        self._replicated = replicated(mesh)
        self._init_key, self._key = jax.jit(
            lambda: jax.random.split(jax.random.key(settings.seed)), out_shardings=self._replicated
        )()
        self._data_bytes = sum(map(feed.nbytes, (dataset.train, dataset.eval)))
        self.resident = self._data_bytes <= settings.data_bytes
        self._image_shape = dataset.train.images.shape[1:]
        augment = dataclasses.asdict(settings.augment)
        self._augmentation = create_augmentation(settings.facts.mean, **augment)
        train = recipe.rows(dataset.train, self._augmentation)
        self._train = feed.create_source(train, mesh, settings.batch_shape, self.resident)
        eval_shape = (settings.train.eval_batch_size,)
        self._eval = feed.create_source(dataset.eval, mesh, eval_shape, self.resident)
        self._eval_examples = len(dataset.eval.labels)
        self._statistics = from_data.statistics(model, dataset, settings.pixel_stats)
        # A part for each device: then no device needs another's images for its moments.
        if settings.local_norms:
            model = model.clone(norm_groups=mesh.size)
        if settings.train.shard_optimizer:
            optimizer = _of_whole_gradients(optimizer, self._replicated)
        self._init, shardings = self._create_init(model, optimizer)
        self.seconds: dict[str, float] = {}
        with timed(self.seconds, "training step"):
            self.train_program = self._compile_training(model, optimizer, shardings)
        with timed(self.seconds, "evaluation"):
            self.eval_program = self._compile_evaluation(model)

    def _create_init(self, model: nn.Module, optimizer: Optimizer) -> tuple[Any, TrainState]:
        """Returns the program of the initial state and its shardings; sets `template`."""
        init = partial(
            create_train_state,
            model=model,
            optimizer=optimizer,
            image_shape=self._image_shape,
            ema=bool(self.settings.train.ema_decay),
        )
        # Shapes are all that compiling and restoring need: only a new run computes the state.
        shapes = jax.eval_shape(init, self._init_key)
        shardings = jax.tree.map(lambda _: self._replicated, shapes)
        if self.settings.train.shard_optimizer:
            parts = split_where_possible(shapes.opt_state, self.mesh)
            shardings = dataclasses.replace(shardings, opt_state=parts)
        self.template = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        program = jax.jit(init, out_shardings=shardings, compiler_options=init_compiler_options())
        return program, shardings

    def _compile_training(
        self, model: nn.Module, optimizer: Optimizer, shardings: TrainState
    ) -> Any:
        """Returns the compiled steps of one call."""
        settings, mesh = self.settings, self.mesh
        step: Callable[..., TrainState] = partial(
            train_step,
            objective=Objective(
                model,
                settings.pixel_stats,
                settings.train.label_smoothing,
                self._augmentation.mix,
                class_weights.parse(settings.train.class_weights),
            ),
            optimizer=optimizer,
            augment=self._augmentation.transform,
            ema_decay=recipe.ema_decay(settings.train.ema_decay, settings.train.ema_warmup),
            max_nonfinite=settings.max_nonfinite,
            devices=mesh.size,
        )
        step = recipe.wrapped(step, self._augmentation, settings.steps_per_epoch)
        # A loop around a single step would only cost time to compile.
        is_single = settings.train.steps_per_call == 1
        call = step if is_single else partial(train_steps, step=step)
        return compiled(
            # Out as in: compiled ahead, the program takes a state of these shardings only.
            jax.jit(call, out_shardings=shardings, donate_argnums=0),
            (self.template, self._key, *self._train.batch, *self._step_count(1)),
            onednn=bool(settings.train.onednn),
        )

    def _compile_evaluation(self, model: nn.Module) -> Any:
        """Returns the compiled evaluation of one batch."""
        shape = (self.settings.train.eval_batch_size,)
        step = partial(eval_step, model=model, pixel_stats=self.settings.pixel_stats)
        mask = jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=self._eval.sharding)
        return compiled(
            jax.jit(step, out_shardings=self._replicated),
            (evaluated_variables(self.template), *self._eval.batch, mask),
            onednn=bool(self.settings.train.onednn),
        )

    def memory_needed(self) -> memory.Estimate:
        """Returns the memory of a training step on each device."""
        image_bytes = math.prod(self._image_shape) + 4  # with its label, int32
        batch_bytes = math.prod(self.settings.batch_shape) * image_bytes // self.mesh.size
        data_bytes = self._data_bytes if self.resident else 0
        return memory.estimate(self.train_program, batch_bytes, data_bytes)

    def init(self) -> TrainState:
        """Returns the state at step 0."""
        return from_data.begun(self._init(self._init_key), self._statistics)

    def calls(self, order: np.ndarray) -> Iterator[Call]:
        """Yields the arguments of the calls that train on the batches of `order`, int32 `[n, B]`.

        Every process gives the whole order and sends the rows of its own devices.
        """
        most = self.settings.train.steps_per_call
        groups = [order[start : start + most] for start in range(0, len(order), most)]
        indices = (
            # Shapes are fixed: a shorter last call is filled up, and `steps` says where it ends.
            np.pad(group, ((0, most - len(group)), (0, 0))).reshape(self.settings.batch_shape)
            for group in groups
        )
        sent = self._train.batches(indices)
        for group, batch in zip(groups, sent, strict=True):
            yield Call(batch, len(group))

    def train(self, state: TrainState, call: Call) -> TrainState:
        """Takes the steps of a call from `calls`; `state` is used up."""
        return self.train_program(state, self._key, *call.batch, *self._step_count(call.steps))

    def evaluate(
        self, state: TrainState, on_batch: Callable[[jax.Array], None] = lambda count: None
    ) -> metrics.Sums:
        """Returns the metric sums over the whole evaluation split, every example once.

        Calls `on_batch` with the count so far after each batch, with at most one on its way.
        """
        variables = evaluated_variables(state)
        total = self.no_sums()
        rows = list(
            batches.sequential_batches(self._eval_examples, self.settings.train.eval_batch_size)
        )
        sent = self._eval.batches(indices for indices, _ in rows)
        for batch, (_, mask) in zip(sent, rows, strict=True):
            placed = place(mask, self._eval.sharding)
            sums = self.eval_program(variables, *batch, placed)
            # Waits for the sums before these; else all batches would be sent and fill the memory.
            before, total = total, metrics.add(total, sums)
            jax.block_until_ready(before)
            on_batch(total["count"])
        return total

    def begin_epoch(self, state: TrainState) -> TrainState:
        """Returns `state` with the sums and counts of an epoch at zero."""
        nonfinite = {**state.nonfinite, "skipped": self._count(0)}
        return dataclasses.replace(state, sums=self.no_sums(), nonfinite=nonfinite)

    def no_sums(self) -> metrics.Sums:
        """Returns the sums over no examples, on every device."""
        return jax.tree.map(lambda leaf: place(np.asarray(leaf), self._replicated), metrics.zeros())

    def _step_count(self, steps: int) -> tuple[jax.Array, ...]:
        """Returns the last argument of a call of several steps; () where a call is one step."""
        return () if self.settings.train.steps_per_call == 1 else (self._count(steps),)

    def _count(self, number: int) -> jax.Array:
        return place(np.asarray(number, np.int32), self._replicated)
