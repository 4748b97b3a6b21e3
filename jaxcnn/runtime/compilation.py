"""How the programs of a run are compiled: XLA's options and oneDNN, and how long it takes."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from jaxcnn import ops


def compiler_options() -> dict[str, str | bool]:
    """Returns the options that every program here is compiled with.

    On the CPU one of them (see `ops.lowering` for all) keeps the barriers of `jax.checkpoint`. XLA
    otherwise expands them before it merges common subexpressions, which undoes the
    rematerialization. It can go when XLA keeps them there as it does on GPU and TPU.
    """
    if jax.default_backend() == "cpu":
        return dict(ops.CPU_COMPILER_OPTIONS)
    return {}


def has_onednn() -> bool:
    """Whether programs can call oneDNN here: a CPU is the only device, and jaxlib has it."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and ops.has_onednn()


def compiled(program: Any, arguments: Any, *, onednn: bool = True) -> Any:
    """Returns a compiled program.

    A program that calls oneDNN cannot be kept in the compilation cache; the others are.

    Args:
        program: From `jax.jit`.
        arguments: Arrays, or their shapes and dtypes.
        onednn: Whether it calls oneDNN where that is possible.
    """
    if not (onednn and has_onednn()):
        with ops.without_onednn():
            return program.lower(*arguments).compile(compiler_options())
    with ops.uncached():  # without this, what is lowered does not call oneDNN
        lowered = program.lower(*arguments)
        if ops.calls_onednn(lowered):
            return lowered.compile(compiler_options())
    return lowered.compile(compiler_options())


def init_compiler_options() -> dict[str, str | int]:
    """Returns the options for a program that runs once, so that compiling is most of its cost.

    On the CPU, LLVM's optimizations of the initial random numbers take longer than all else.
    """
    if jax.default_backend() == "cpu":
        # No library that sums wrongly here, see `ops.lowering`.
        fusions = ops.CPU_COMPILER_OPTIONS[ops.YNN_FUSIONS]
        return {"xla_backend_optimization_level": 0, ops.YNN_FUSIONS: fusions}
    return {}


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes in `seconds`, under `name`, how long what is inside takes."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - begin
