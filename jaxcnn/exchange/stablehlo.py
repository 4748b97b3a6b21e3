"""A network as StableHLO: a portable program that JAX runs without this package.

The file is what `jax.export` serializes: the program, its weights as constants, and the types of
what it takes and gives. Inside, `mlir_module_serialized` is StableHLO's own portable bytecode. How
far apart the versions may be that write and read it: see the compatibility guarantees in
https://docs.jax.dev/en/latest/export/export.html.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxcnn.errors import UserError
from jaxcnn.exchange import network
from jaxcnn.exchange.subject import Subject
from jaxcnn.ops.pixels import normalize
from jaxcnn.runtime.compilation import compiler_options

PLATFORMS = ("cpu", "cuda", "tpu")


def write(subject: Subject, path: Path) -> None:
    """Writes a program from uint8 `[b, H, W, C]`, any b, to float32 logits `[b, K]`."""
    stats, variables = subject.run.settings.pixel_stats, network.unflatten(subject.arrays)

    def logits(images: jax.Array) -> Any:
        normal = normalize(images, stats)
        return subject.network.module.apply(variables, normal, train=False)

    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *subject.network.image_shape), jnp.uint8)
    exported = export.export(jax.jit(logits), platforms=PLATFORMS)(images)
    path.write_bytes(exported.serialize())


def read(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the program as a function of images, compiled for each number of them.

    Raises:
        UserError: If the file holds none.
    """
    try:
        exported = export.deserialize(bytearray(path.read_bytes()))
    except OSError:
        raise
    except Exception as error:  # a damaged file leads to almost any error
        raise UserError(f"{path} holds no program of jax.export: export it anew") from error
    program = jax.jit(exported.call, compiler_options=compiler_options())
    return lambda images: np.asarray(program(images))
