"""How the programs of a run are compiled: XLA's options, oneDNN, the compilation cache."""

import contextlib
from typing import Any

import jax

from jaxcnn import ops


def compiler_options() -> dict[str, str | bool]:
    """Returns the options that every program here is compiled with.

    On the CPU one of them (see `ops.platform` for all) is there for `jax.checkpoint`, too: XLA
    expands its barriers before it merges common subexpressions, which undoes the
    rematerialisation. DenseNet with remat then needs as much memory as without (194 MB; with the
    barriers kept 90 MB: 6 layers of k = 8, 16x16, batch 128, jax 0.10.2 and 0.12.0.1). It can go
    when XLA keeps them as it does on GPU and TPU.
    """
    if jax.default_backend() == "cpu":
        return dict(ops.CPU_COMPILER_OPTIONS)
    return {}


def compiled(program: Any, arguments: Any) -> Any:
    """Compiles a program from `jax.jit`, with oneDNN where it can be called.

    A program that calls oneDNN cannot be kept in the compilation cache; so one that could call it
    never is.

    Args:
        program: From `jax.jit`.
        arguments: Arrays, or their shapes and dtypes.
    """
    alone_on_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    calls_onednn = alone_on_cpu and ops.has_onednn()
    with ops.uncached() if calls_onednn else contextlib.nullcontext():
        return program.lower(*arguments).compile(compiler_options())


def init_compiler_options() -> dict[str, int]:
    """Returns the options for a program that runs once, where compiling is most of the cost.

    On the CPU, the random numbers of ResNet-18's 21 kernels take LLVM 18.2 s, and 2.5 s without
    its optimizations, for a run of 1.2 s (2 busy cores of an EPYC, jax 0.10.2, one run).
    """
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
