"""Where compiled programs are kept between runs: JAX's persistent compilation cache."""

import logging
import os
import stat
import tempfile
from pathlib import Path

import jax
import platformdirs

_logger = logging.getLogger(__name__)
_REMEDY = "set JAX_COMPILATION_CACHE_DIR to a folder of your own"


def use_compilation_cache() -> None:
    """Enables JAX's persistent compilation cache in a private folder of the user.

    JAX executes the machine code that it finds there, so the folder must belong to the user and be
    closed to others. `JAX_COMPILATION_CACHE_DIR` chooses another folder, which is not checked. A
    folder that cannot be used costs time alone: a warning says so, and nothing is kept.
    """
    # The default of one second would leave out most of a small network's programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen and "://" in chosen:  # a bucket of a cloud, which JAX itself opens
        return
    folder = Path(os.path.expanduser(chosen)) if chosen else user_folder() / "xla"
    problem = _problem(folder, private=not chosen)
    if problem:
        _logger.warning(
            "compiled programs are not kept, which costs time at every start: %s; %s",
            *(problem, _REMEDY),
        )
    jax.config.update("jax_compilation_cache_dir", None if problem else str(folder))


def user_folder() -> Path:
    """Returns this program's folder in the user's cache; it begins with ~ without a home."""
    try:
        return Path(os.path.expanduser(platformdirs.user_cache_dir("jaxcnn")))
    except RuntimeError:  # as newer versions of platformdirs say it
        return Path("~/.cache/jaxcnn")


def _problem(folder: Path, private: bool) -> str | None:
    """Returns why a folder, which is made if need be, cannot hold the cache, or None.

    Args:
        folder: The folder.
        private: Whether it must belong to the user alone.
    """
    if str(folder).startswith("~"):  # neither HOME nor an entry in the system's list of users
        return f"there is no home directory for {folder}"
    if private and not folder.is_absolute():
        return f"{folder} is no absolute path"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = folder.stat()
        # Someone else's folder could hold someone else's machine code.
        if private and hasattr(os, "getuid"):
            if info.st_uid != os.getuid():
                return f"{folder} belongs to another user"
            if stat.S_IMODE(info.st_mode) != 0o700:
                folder.chmod(0o700)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"cannot write to {folder} ({error.strerror})"
