"""The compiled programs of a run and the data they read: this is where `jit` is applied."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from jaxcnn import batches, metrics, ops, parallel, steps
from jaxcnn.augment import Moments
from jaxcnn.data import Dataset
from jaxcnn.optim import Optimizer


def compiler_options() -> dict[str, str | bool]:
    """Returns the options that every program here is compiled with.

    On the CPU, XLA expands the optimization barriers of `jax.checkpoint` before it merges common
    subexpressions, which undoes the rematerialisation: DenseNet with memory_efficient then needs
    as much memory as without (194 MB; with the barriers kept 90 MB: 6 layers of k = 8, 16x16,
    batch 128, jax 0.10.2 and 0.12.0.1). Can go when XLA keeps them as it does on GPU and TPU.
    """
    if jax.default_backend() == "cpu":
        return {"xla_disable_hlo_passes": "cse_barrier_expander", **ops.CPU_COMPILER_OPTIONS}
    return {}


def init_compiler_options() -> dict[str, int]:
    """Returns the options for a program that runs once, where compiling is most of the cost.

    On the CPU, the random numbers of ResNet-18's 21 kernels take LLVM 18.2 s, and 2.5 s without
    its optimizations, for a run of 1.2 s (2 busy cores of an EPYC, jax 0.10.2, one run).
    """
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}


class Programs:
    """Initial state, training step and evaluation, compiled ahead of time for one data set.

    All are compiled before the first step, so nothing is compiled in the middle of a run: a call
    with other shapes is an error. The data set lies on every device as uint8; a batch is gathered
    there, so a step transfers only its indices.

    Attributes:
        template: Shapes, dtypes and shardings of the training state.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        augment: Callable[[jax.Array, jax.Array], jax.Array],
        moments: Moments,
        dataset: Dataset,
        mesh: Mesh,
        batch_size: int,
        eval_batch_size: int,
        label_smoothing: float,
        ema_decay: float,
        seed: int,
        max_nonfinite: int = 1,
    ) -> None:
        """Compiles for batches of `batch_size` and `eval_batch_size` over all devices of `mesh`."""
        whole, split = parallel.replicated(mesh), parallel.split(mesh)
        self._whole, self._split = whole, split
        self._init_key, self._key = jax.random.split(jax.random.key(seed))
        self._train = tuple(parallel.replicate(array, mesh) for array in dataset.train)
        self._eval = tuple(parallel.replicate(array, mesh) for array in dataset.eval)
        self._eval_batch_size = eval_batch_size

        init = partial(
            steps.create_train_state,
            model=model,
            optimizer=optimizer,
            image_shape=dataset.train.images.shape[1:],
            ema=bool(ema_decay),
        )
        train_step = partial(
            steps.train_step,
            model=model,
            optimizer=optimizer,
            augment=augment,
            moments=moments,
            label_smoothing=label_smoothing,
            ema_decay=ema_decay,
            max_nonfinite=max_nonfinite,
        )
        eval_step = partial(steps.eval_step, model=model, moments=moments)

        self._init = jax.jit(init, out_shardings=whole, compiler_options=init_compiler_options())
        self.template = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
            jax.eval_shape(init, self._init_key),
        )
        indices = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        self.train_step = (
            jax.jit(
                train_step,
                in_shardings=(whole, whole, whole, whole, split),
                out_shardings=whole,
                donate_argnums=0,
            )
            .lower(self.template, self._key, *self._train, indices)
            .compile(compiler_options())
        )
        indices = jax.ShapeDtypeStruct((eval_batch_size,), jnp.int32)
        mask = jax.ShapeDtypeStruct((eval_batch_size,), jnp.bool_)
        variables = steps.evaluated_variables(self.template)
        self.eval_step = (
            jax.jit(
                eval_step, in_shardings=(whole, whole, whole, split, split), out_shardings=whole
            )
            .lower(variables, *self._eval, indices, mask)
            .compile(compiler_options())
        )

    def init(self) -> steps.TrainState:
        """Returns the state at step 0."""
        return self._init(self._init_key)

    def train(self, state: steps.TrainState, indices: np.ndarray) -> steps.TrainState:
        """Takes one step on the rows `indices`, int32 `[B]`; `state` is used up."""
        return self.train_step(state, self._key, *self._train, self._place(indices))

    def evaluate(
        self, state: steps.TrainState, between: Callable[[], None] = lambda: None
    ) -> metrics.Sums:
        """Returns the metric sums over the whole evaluation split, every example once.

        Calls `between` after each batch, with at most one more on its way.
        """
        variables = steps.evaluated_variables(state)
        total = self.no_sums()
        for indices, mask in batches.in_order(len(self._eval[0]), self._eval_batch_size):
            sums = self.eval_step(variables, *self._eval, self._place(indices), self._place(mask))
            before, total = total, metrics.add(total, sums)
            jax.block_until_ready(before)
            between()
        return total

    def begin_epoch(self, state: steps.TrainState) -> steps.TrainState:
        """Returns `state` with the sums and counts of an epoch at zero."""
        nonfinite = {**state.nonfinite, "skipped": jax.device_put(jnp.int32(0), self._whole)}
        return dataclasses.replace(state, sums=self.no_sums(), nonfinite=nonfinite)

    def no_sums(self) -> metrics.Sums:
        """Returns the sums over no examples, on every device."""
        return jax.device_put(metrics.zeros(), self._whole)

    def _place(self, array: np.ndarray) -> jax.Array:
        return jax.device_put(array, self._split)
