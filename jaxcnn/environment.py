"""Where a run happens: versions, devices, revision; and the compilation cache of this machine."""

import ctypes
import datetime
import os
import platform
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import jaxcnn
from jaxcnn import ops
from jaxcnn.errors import UserError

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def describe() -> dict[str, Any]:
    """Returns what environment.json says of one start of the program."""
    devices = jax.devices()
    return {
        "started_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "jaxcnn": jaxcnn.__version__,
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "platform": devices[0].platform,
        "devices": [device.device_kind for device in devices],
        "host": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "onednn": ops.has_onednn(),
    }


def git_revision() -> str | None:
    """Returns the commit of the source tree, with "-dirty" if it was changed; None without git."""
    root = Path(jaxcnn.__file__).parents[1]
    command = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def machine() -> str:
    """Returns the cores and the processor in words, for what is measured on them."""
    return f"{os.cpu_count()} cores of {cpu_name()}"


def cpu_name() -> str:
    """Returns the processor's name, or architecture, and its widest vectors where that is known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no /proc on this system
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    name = facts.get("model name", platform.machine())
    flags = facts.get("flags", "").split()
    widest = [title for flag, title in _VECTORS.items() if flag in flags]
    return f"{name}, {widest[0]}" if widest else name


_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}


def keep_freed_memory() -> None:
    """Has the C library keep freed memory for the next step in place of giving it to the system.

    XLA's CPU runtime allocates each step's intermediate arrays anew. By default glibc returns such
    blocks at once, and the system zeroes them page by page when the next step asks for them:
    MobileNet's step at batch 128 takes 174 ms so, and 94 ms with the memory kept (2 cores of an
    EPYC, jax 0.10.2, medians of 12 steps), for a peak memory of 1.36 in place of 0.97 GB. Does
    nothing without glibc, or where the user has set glibc's own variables.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = ctypes.CDLL(None).mallopt
    mmap_max, trim_threshold, arena_max = -4, -1, -8  # names and numbers from malloc.h
    # One arena: only the main one grows without mmap.
    for option, value in ((mmap_max, 0), (trim_threshold, -1), (arena_max, 1)):
        mallopt(option, value)


_LARGE_BYTES = 64 << 20


def sparing(program: Any) -> Callable[..., Any]:
    """Returns a compiled program that, on the CPU, returns when it has freed its memory.

    XLA's CPU runtime frees the intermediate arrays of a program just after it has said that the
    result is there. A program that is started at that moment asks for as much memory again: 20
    steps of ResNet-18 at batch 128 and an evaluation reached 5.7 GB so, and 3.6 GB with the wait
    (2 cores of an EPYC, jax 0.10.2, one run each). The wait is a hundredth of the program's
    time, at most a millisecond. Programs with less than 64 MB of intermediate arrays are returned
    as they are: LeNet's steps would lose a sixth of their speed.
    """
    if jax.default_backend() != "cpu":
        return program
    if program.memory_analysis().temp_size_in_bytes < _LARGE_BYTES:
        return program

    def call(*arguments: Any) -> Any:
        began = time.perf_counter()
        result = jax.block_until_ready(program(*arguments))
        time.sleep(min(0.001, (time.perf_counter() - began) / 100))
        return result

    return call


_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def use_deterministic_operations() -> None:
    """Has XLA use operations on a GPU that give the same bits every time, at some cost in speed.

    XLA's own words: "Guarantees run-to-run determinism on GPU"; the choice of algorithms by timing,
    which differs from one process to the next, is off then too. On a CPU nothing changes. XLA
    reads its flags when JAX initialises a backend, so this comes before anything else does.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if _DETERMINISTIC not in given:
        os.environ["XLA_FLAGS"] = f"{given} {_DETERMINISTIC}".strip()


def check_deterministic() -> None:
    """Raises UserError if the backend is a GPU and XLA's flags do not make it deterministic."""
    if jax.default_backend() == "gpu" and _DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        raise UserError(
            f"train.deterministic=True needs XLA_FLAGS={_DETERMINISTIC} before JAX starts: set it, "
            "or call environment.use_deterministic_operations() first"
        )


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, in a private folder of the user's.

    JAX loads what it finds there as machine code, so the folder must be the user's own and closed
    to others. `JAX_COMPILATION_CACHE_DIR` chooses another folder, on the user's own responsibility.

    Raises:
        UserError: If the folder belongs to someone else, or cannot be made.
    """
    # The default of one second would leave out most of a small network's programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        if "://" not in chosen:
            _check_writable(Path(chosen))
        return
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base) / "jaxcnn" / "xla"
    remedy = "set JAX_COMPILATION_CACHE_DIR to a folder of your own"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = folder.stat()
        if hasattr(os, "getuid") and info.st_uid != os.getuid():
            raise UserError(f"the compilation cache {folder} belongs to another user: {remedy}")
        if stat.S_IMODE(info.st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise UserError(
            f"cannot use the compilation cache {folder} ({error.strerror}): {remedy}"
        ) from error
    _check_writable(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _check_writable(folder: Path) -> None:
    """Raises UserError unless a file can be made in `folder`; JAX would warn at each program."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to the compilation cache {folder} ({error.strerror}): set "
            "JAX_COMPILATION_CACHE_DIR to a folder of your own"
        ) from error
