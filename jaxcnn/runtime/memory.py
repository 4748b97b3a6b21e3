"""How much memory a step takes on a device, and what to do when there is not enough."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxcnn.errors import UserError


class Estimate(NamedTuple):
    """Bytes on one device while a step runs, as XLA's buffer assignment gives them.

    Attributes:
        fixed: The training state and a data set that lies there.
        growing: Activations and the batch: what grows with the batch.
    """

    fixed: int
    growing: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.fixed + self.growing


def estimate(program: Any, batch_bytes: int, data_bytes: int) -> Estimate:
    """Returns the estimate for a compiled training program.

    Args:
        program: From `jax.jit(...).lower(...).compile()`.
        batch_bytes: Of the batch on one device, an argument of the program.
        data_bytes: Of the data set on one device, which is none.
    """
    analysis = program.memory_analysis()
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    fixed = analysis.argument_size_in_bytes - batch_bytes + outputs + data_bytes
    return Estimate(fixed, analysis.temp_size_in_bytes + batch_bytes)


def limit() -> int | None:
    """Returns the bytes that a device has, or None where it is not known.

    The CPU devices of a process share what the machine, or the container, has.
    """
    device = jax.local_devices()[0]
    if "bytes_limit" in (stats := device.memory_stats() or {}):
        return stats["bytes_limit"]
    if device.platform != "cpu":
        return None
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no control group, or "max"
        host = min(host, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return host // jax.local_device_count()


def largest_batch(needed: Estimate, batch_size: int, multiple: int, available: int) -> int:
    """Returns the largest multiple of `multiple` images that would fit, 0 for none.

    Args:
        needed: Of `batch_size` images.
        batch_size: Images of a step.
        multiple: Devices times micro-batches.
        available: Bytes of a device.
    """
    images = int(batch_size * max(available - needed.fixed, 0) / max(needed.growing, 1))
    return min(images, batch_size) // multiple * multiple


def remedy(
    needed: Estimate | None, resolved: dict[str, Any], devices: int, available: int | None
) -> str:
    """Returns what is too large and the settings that help, in one line."""
    train, model = resolved["train"], resolved["model"]
    size, multiple = train["batch_size"], devices * train["grad_accum_steps"]
    text = f"not enough memory for train.batch_size={size}"
    fits = 0
    if needed is not None:
        text += f": a step needs about {gigabytes(needed.total)} on each of {devices} devices"
        if available is not None:
            text += f", which has {gigabytes(available)}"
            fits = largest_batch(needed, size, multiple, available)
    switches = [f"train.grad_accum_steps={2 * train['grad_accum_steps']}"]
    on_cpu = jax.default_backend() == "cpu"
    is_as_one = model["name"].startswith("densenet") and on_cpu and not model.get("drop_rate")
    if not (train["remat"] or is_as_one or model["name"].startswith("lenet")):
        switches.append("train.remat=True")
    if model["dtype"] != "bfloat16":
        switches.append("model.dtype=bfloat16")
    if not train["shard_optimizer"] and devices > 1:
        switches.append("train.shard_optimizer=True")
    fitting = f"about {fits} would fit" if 0 < fits < size else "try a smaller one"
    return f"{text}; {fitting}, or set {', '.join(switches)}"


def gigabytes(count: int) -> str:
    """Returns a number of bytes in GB."""
    return f"{count / 1e9:.2f} GB"


@contextlib.contextmanager
def exhaustion_explained(words: str) -> Iterator[None]:
    """Turns a device's lack of memory into a UserError of `words`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(words) from error
