"""Where compiled programs are kept between runs: JAX's persistent compilation cache."""

import os
import stat
import tempfile
from pathlib import Path

import jax

from jaxcnn.errors import UserError


def use_compilation_cache() -> None:
    """Enables JAX's persistent compilation cache in a private folder of the user.

    JAX executes the machine code that it finds there, so the folder must belong to the user and be
    closed to others. `JAX_COMPILATION_CACHE_DIR` chooses another folder, which is not checked.

    Raises:
        UserError: If the folder belongs to another user, or cannot be created or written to.
    """
    # The default of one second would leave out most of a small network's programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        # A bucket of a cloud, which JAX itself opens.
        if "://" not in chosen:
            _check_writable(Path(chosen))
        return
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base) / "jaxcnn" / "xla"
    remedy = "set JAX_COMPILATION_CACHE_DIR to a folder of your own"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = folder.stat()
        # Someone else's folder could hold someone else's machine code.
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
    """Raises UserError unless `folder` is writable; JAX would warn for every program."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to the compilation cache {folder} ({error.strerror}): set "
            "JAX_COMPILATION_CACHE_DIR to a folder of your own"
        ) from error
