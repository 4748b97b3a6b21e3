"""Measurements that depend on machine, program and inputs alone: taken once, then kept.

Each is a JSON file in the user's cache, `jaxcnn/measurements`, with all that it depends on. It is
used again only where all of that is the same and its digest shows that no byte has changed.
Removing the folder is always safe.
"""

import datetime
import errno
import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jaxcnn
from jaxcnn.runtime import compilation_cache, environment

_logger = logging.getLogger(__name__)

# Of `environment.describe`: the source is told by its digest, the rest of these changes nothing.
_NO_MATTER = ("started_at", "git_revision")
# Variables that change what is computed, or how fast.
_VARIABLES = ("JAX_", "XLA_", "OMP_", "MALLOC_", "CUDA_")
_FOLDERS = ("JAX_COMPILATION_CACHE_DIR", "CUDA_CACHE_PATH")


class Keeper:
    """Takes measurements, or finds those that an earlier start has kept.

    Attributes:
        found: For each kind the times, ISO 8601 in UTC, at which what was found had been measured.
    """

    def __init__(self, folder: Path | None = None, anew: bool = False) -> None:
        """Keeps measurements in `folder`; with `anew`, takes all of them again."""
        self._folder = folder or compilation_cache.user_folder() / "measurements"
        self._anew = anew
        self.found: dict[str, list[str]] = {}

    def take(self, kind: str, inputs: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """Returns a measurement, from `measure` or from an earlier call of it.

        Args:
            kind: What is measured, in words.
            inputs: All that it depends on, besides machine and program, as JSON has it.
            measure: Takes it; what it returns must be the same after a way through JSON.
        """
        key = {"kind": kind, "inputs": inputs, **_surroundings()}
        path = self._folder / f"{_digest(key)[:32]}.json"
        content = None if self._anew else _read(path, key)
        if content is not None:
            self.found.setdefault(kind, []).append(content["measured_at"])
            return content["value"]
        value = measure()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        _write(path, {"key": key, "measured_at": now, "value": value})
        return value


def _surroundings() -> dict[str, Any]:
    """Returns the machine and the program, as far as a measurement depends on them."""
    described = {k: v for k, v in environment.describe().items() if k not in _NO_MATTER}
    variables = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_VARIABLES) and name not in _FOLDERS
    }
    return {
        "source": source_digest(),
        "environment": described,
        "usable_cores": environment.usable_cores(),
        "variables": variables,
    }


@functools.cache
def source_digest() -> str:
    """Returns the SHA-256 of the names and bytes of all Python files of the package."""
    root = Path(jaxcnn.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name, content = path.relative_to(root).as_posix().encode(), path.read_bytes()
        digest.update(b"%d:%s%d:%s" % (len(name), name, len(content), content))
    return digest.hexdigest()


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what is kept for `key`; None if there is nothing, or it is damaged."""
    try:
        file = json.loads(path.read_bytes())
        content = file["content"]
        if file["sha256"] == _digest(content) and _digest(content["key"]) == _digest(key):
            return content
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    _logger.warning("measuring again, as %s is damaged", path)
    return None


def _write(path: Path, content: dict[str, Any]) -> None:
    """Writes a measurement atomically; where that cannot be, the next start measures again."""
    try:
        if str(path).startswith("~"):
            raise OSError(errno.ENOENT, "there is no home directory")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump({"sha256": _digest(content), "content": content}, file, indent=1)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        _logger.warning(
            "measurements are not kept in %s (%s), which costs time at every start",
            *(path.parent, error.strerror or error),
        )
