"""Memory: what a step takes on a device, what the device has, what the C library keeps."""

import contextlib
import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxcnn.errors import UserError


class Estimate(NamedTuple):
    """Bytes on one device while a step runs, according to XLA's buffer assignment.

    Attributes:
        fixed: The training state, and the data set if it lies on the device.
        growing: Activations and the batch, which grow with the batch size.
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
        data_bytes: Of the data set on one device, which is not an argument of the program.
    """
    analysis = program.memory_analysis()
    # A donated argument and the result in its place are counted in both sizes.
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    fixed = analysis.argument_size_in_bytes - batch_bytes + outputs + data_bytes
    return Estimate(fixed, analysis.temp_size_in_bytes + batch_bytes)


def limit() -> int | None:
    """Returns the bytes of memory of a device, or None if unknown.

    The CPU devices of a process share the memory of the machine or the container.
    """
    device = jax.local_devices()[0]
    # What JAX may use of an accelerator, which is less than it has.
    if "bytes_limit" in (stats := device.memory_stats() or {}):
        return stats["bytes_limit"]
    if device.platform != "cpu":
        return None
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no control group, or "max"
        host = min(host, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return host // jax.local_device_count()


def largest_batch(needed: Estimate, batch_size: int, multiple: int, available: int) -> int:
    """Returns the largest batch size that would fit, a multiple of `multiple`; 0 if none does.

    Args:
        needed: Of `batch_size` images.
        batch_size: Images of a step.
        multiple: Devices times micro-batches.
        available: Bytes of a device.
    """
    # Linear in the batch: only arrays of activations and of the batch grow.
    images = int(batch_size * max(available - needed.fixed, 0) / max(needed.growing, 1))
    return min(images, batch_size) // multiple * multiple


def gigabytes(count: int) -> str:
    """Returns a number of bytes in GB."""
    return f"{count / 1e9:.2f} GB"


@contextlib.contextmanager
def exhaustion_explained(words: str) -> Iterator[None]:
    """Turns an out-of-memory error of a device into a UserError with the message `words`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(words) from error


def configure_malloc() -> None:
    """Lets a CPU program keep freed memory for its next step, instead of returning it.

    Call it before JAX initializes a backend. XLA's CPU runtime allocates each step's intermediate
    arrays anew. By default glibc returns such blocks at once, and the system zeroes them page by
    page when the next step asks for them. Here glibc keeps them, which it can do only with what the
    main thread allocates: so programs run on the thread that calls them. That thread then returns
    when all memory is freed, which keeps the peak low when the next program begins.

    Does nothing to the C library without glibc, or where the user has set glibc's own variables.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if not _is_glibc() or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = ctypes.CDLL(None).mallopt
    # No mapping for large arrays (`mmap_max` 0), and nothing returned from the heap's end.
    mmap_max, trim_threshold = -4, -1  # names and numbers from malloc.h
    for option, value in ((mmap_max, 0), (trim_threshold, -1)):
        mallopt(option, value)


def release_compile_memory() -> None:
    """Frees what tracing and compiling have left: JAX's caches, and memory that glibc holds.

    Call it when all programs are compiled; those from `compilation.compiled` stay.
    """
    jax.clear_caches()
    gc.collect()
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
