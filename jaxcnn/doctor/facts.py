"""What there is to compute with, in lines: versions, devices, memory, disk, caches, data."""

import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxcnn
from jaxcnn import ops
from jaxcnn.config.settings import Settings
from jaxcnn.data import digits
from jaxcnn.data.cifar10.published import SETS
from jaxcnn.data.locate import data_root, find
from jaxcnn.errors import UserError
from jaxcnn.ops.conv import used
from jaxcnn.runtime import environment, memory
from jaxcnn.runtime.compilation import compiler_options

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def lines(data_dir: str) -> Iterator[str]:
    """Yields the facts of this machine and installation, one a line.

    Args:
        data_dir: As in the configuration.
    """
    revision = environment.git_revision()
    yield f"jaxcnn {jaxcnn.__version__}{f', revision {revision}' if revision else ''}"
    found = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    yield f"Python {platform.python_version()} on {platform.platform()}"
    yield found
    devices = jax.devices()
    kinds = ", ".join(
        f"{sum(d.device_kind == kind for d in devices)} x {kind}"
        for kind in dict.fromkeys(device.device_kind for device in devices)
    )
    yield f"devices: {kinds} ({devices[0].platform})"
    usable = environment.usable_cores()
    yield f"processor: {environment.machine()}, of which this process may use {usable}"
    limit = memory.limit()
    known = "unknown" if limit is None else memory.gigabytes(limit)
    yield f"memory of a device: {known}"
    here = Path.cwd()
    yield f"disk: {memory.gigabytes(shutil.disk_usage(here).free)} free in {here}"
    yield f"compiled programs: {_cache()}"
    yield f"data: {_data(data_dir)}"
    options = compiler_options().items()
    if options:
        yield f"XLA's options: {', '.join(f'{name}={value!r}' for name, value in options)}"


def algorithms(settings: Settings, devices: int) -> Iterator[str]:
    """Yields which library and algorithm computes what in a training step, one kind a line."""
    platform_name = jax.default_backend()
    if platform_name != "cpu":
        yield f"all convolutions: the primitives of XLA for {platform_name}"
        return
    by_onednn = ops.has_onednn() and devices == 1 and bool(settings.train.onednn)
    yield f"oneDNN: {'called' if by_onednn else 'not called'}; the rest by XLA"
    model = settings.create_model()
    size = settings.train.batch_size // settings.train.grad_accum_steps
    images = jax.ShapeDtypeStruct((size, *settings.facts.image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    uses = used.algorithms(
        lambda variables, images: model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        ),
        *(variables, images),
        backend="onednn" if by_onednn else "xla",
        devices=devices,
    )
    for use, count in uses.items():
        how = "layer by layer inside, see docs/algorithms.md"
        if use.plan:
            how = f"{use.plan.forward}; gradients {use.plan.input_grad}, {use.plan.kernel_grad}"
        yield f"{count} x {use.kind}: {how}"


def _cache() -> str:
    config: Any = jax.config
    folder: str | None = config.jax_compilation_cache_dir
    if not folder:
        return "not kept"
    if "://" in folder:
        return f"in {folder}"
    files = [path for path in Path(folder).glob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return f"{len(files)} files, {memory.gigabytes(size)} in {folder}"


def _data(data_dir: str) -> str:
    try:
        root = data_root(data_dir)
        found = {name: find(root, name) for name in SETS}
    except UserError as error:
        return f"{digits.NAME} in the installation; {error}"
    prepared = [f"{name} in {path}" for name, path in found.items() if path]
    missing = [name for name, path in found.items() if not path]
    nowhere = [f"no {' and no '.join(missing)} in {root}"] if missing else []
    return ", ".join([f"{digits.NAME} in the installation", *prepared, *nowhere])
