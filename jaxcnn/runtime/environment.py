"""Where a run happens: versions, devices, revision; and the compilation cache of this machine."""

import ctypes
import datetime
import gc
import os
import platform
import stat
import subprocess
import tempfile
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


def configure_malloc() -> None:
    """Has a CPU program's memory kept for the next step, in place of given back to the system.

    Call it before JAX initialises a backend. XLA's CPU runtime allocates each step's intermediate
    arrays anew. By default glibc returns such blocks at once, and the system zeroes them page by
    page when the next step asks for them. Here glibc keeps them, which it can do with what the main
    thread allocates; so programs run on the thread that calls them, which then returns when all is
    freed. Steps at batch 128, and compiling, by default, with the memory kept and with one arena
    for all threads in place of the main thread's: MobileNet 62, 36 and 41 ms; DenseNet-40 1,938,
    1,949 and 2,280 ms, 13, 13 and 19 s (2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 30
    and 4 steps). A program that has not freed its memory when the next one begins, as without the
    calling thread, makes ResNet-18's peak 1,851 in place of 1,093 MB in some runs.

    Does nothing to the C library without glibc, or where the user has set glibc's own variables.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if not _is_glibc() or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = ctypes.CDLL(None).mallopt
    mmap_max, trim_threshold = -4, -1  # names and numbers from malloc.h
    for option, value in ((mmap_max, 0), (trim_threshold, -1)):
        mallopt(option, value)


def release_compile_memory() -> None:
    """Gives back what tracing and compiling have left: JAX's caches, and memory that is free.

    Call it when all programs are compiled; those from `compiling.compiled` stay. Of the memory of
    MobileNet's step, 12 MB of 247 (batch 128, medians of 3, jax 0.10.2).
    """
    jax.clear_caches()
    gc.collect()
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


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
