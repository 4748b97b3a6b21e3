"""Where a run happens: versions, devices, revision, and whether operations are deterministic."""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import jaxcnn
from jaxcnn import ops
from jaxcnn.errors import UserError

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def describe() -> dict[str, Any]:
    """Returns the entry of environment.json for one start of the program."""
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
        "cpu_count": usable_cores(),
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
        # Results of a tree with uncommitted changes must not pass for those of the commit.
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    # An installed package has no history; git would find another one, of a folder above.
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def machine() -> str:
    """Returns the cores that can be used and the processor's name, to be stated with figures."""
    return cores_of(usable_cores(), cpu_name())


def cores_of(count: int | None, cpu: str | None) -> str:
    """Returns such a number of cores of a processor in words."""
    return f"{count} core{'' if count == 1 else 's'} of {cpu}"


def usable_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """Returns the processor's name, or architecture, and its widest vectors if known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no /proc on this system
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    name = facts.get("model name", platform.machine())
    flags = facts.get("flags", "").split()
    widest = [title for flag, title in _VECTORS.items() if flag in flags]
    return f"{name}, {widest[0]}" if widest else name


_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}


_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def use_deterministic_operations() -> None:
    """Makes XLA use deterministic operations on a GPU, at some cost in speed; a CPU always does.

    The flag's documentation: "Guarantees run-to-run determinism on GPU". It also disables the
    choice of algorithms by timing, which differs between processes. XLA reads its flags when JAX
    initializes a backend, so call this before any other use of JAX.
    """
    given = os.environ.get("XLA_FLAGS", "")
    # Added: flags that the user has set stay.
    if _DETERMINISTIC not in given:
        os.environ["XLA_FLAGS"] = f"{given} {_DETERMINISTIC}".strip()


def check_deterministic() -> None:
    """Raises UserError if the backend is a GPU and XLA's flags do not make it deterministic."""
    if jax.default_backend() == "gpu" and _DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        raise UserError(
            f"train.deterministic=True needs XLA_FLAGS={_DETERMINISTIC} before JAX starts: set it, "
            "or call environment.use_deterministic_operations() first"
        )
