"""What `jaxcnn doctor` has found on this machine, and what a start of a training makes of it.

A small JSON file in the user's cache, with an entry for each machine, set of versions and program
that was looked at. Another version is another entry: what was mended there is not refused.
"""

import hashlib
import json
import logging
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import jaxcnn
from jaxcnn.errors import UserError
from jaxcnn.run.folder import write_atomically
from jaxcnn.runtime import compilation_cache, environment
from jaxcnn.runtime.kept import source_digest

_logger = logging.getLogger(__name__)

TESTED = ("0.10.2", "0.12.0.1")
"""The versions of jaxlib with which the tests are run: those of requirements.lock."""

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def file() -> Path:
    """Returns where the outcomes are kept."""
    return compilation_cache.user_folder() / "doctor.json"


def subject() -> dict[str, Any]:
    """Returns what an outcome is about: machine, devices, versions, and the program itself."""
    return {
        "machine": environment.machine(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
        "jaxcnn": jaxcnn.__version__,
        "source": source_digest(),
    }


def remember(findings: dict[str, str | None]) -> None:
    """Adds findings to those of the same subject; a part that was looked at before is replaced.

    Args:
        findings: By what was looked at, such as a network: the error in one line; None if all is
            well.

    Raises:
        UserError: If the file cannot be written.
    """
    path, key = file(), _key(subject())
    remedy = "mend this, or set XDG_CACHE_HOME to a folder of your own"
    if not path.is_absolute():
        raise UserError(f"the outcome cannot be kept in {path} (there is no home): {remedy}")
    try:
        known = _read(path)
    except ValueError:
        known = {}  # what was damaged is written anew
    entry = known.get(key, {"subject": subject(), "findings": {}})
    entry["findings"] |= findings
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, json.dumps({**known, key: entry}, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"the outcome cannot be kept in {path} ({error.strerror}): {remedy}"
        ) from error


def check_start() -> None:
    """Refuses to start where something is known to be computed wrongly.

    Warns where nothing is known: with a version of jaxlib that no test has seen and that
    `jaxcnn doctor` has not looked at.

    Raises:
        UserError: With what is wrong and both numbers.
    """
    path = file()
    try:
        entry = _read(path).get(_key(subject()))
    except ValueError as error:
        _logger.warning("%s is damaged (%s): jaxcnn doctor writes it anew", path, error)
        entry = None
    for finding in (entry or {"findings": {}})["findings"].values():
        if finding is not None:
            raise UserError(
                f"jaxcnn doctor found wrong numbers here: {finding}; install another version, then "
                f"run jaxcnn doctor again (kept in {path})"
            )
    version = metadata.version("jaxlib")
    if entry is None and version not in TESTED:
        _logger.warning(
            "jaxlib %s is none of those that jaxcnn is tested with (%s): jaxcnn doctor finds out "
            "in a minute whether it computes correctly here",
            *(version, ", ".join(TESTED)),
        )


def _key(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    """Returns the entries of the file, none if there is no file; ValueError if it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    entries = found.values() if isinstance(found, dict) else [None]
    for entry in entries:
        findings = entry.get("findings") if isinstance(entry, dict) else None
        if not isinstance(findings, dict) or not all(
            error is None or isinstance(error, str) for error in findings.values()
        ):
            raise ValueError("it does not hold outcomes")
    return dict(found)
