"""A checkpoint's manifest: its files with their sizes and SHA-256, so that damage is noticed.

The manifest is written before the folder gets its final name, and contains a digest of itself: a
folder with a final name but without a valid manifest is damaged, never half-written.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError

NAME = "manifest.json"
FORMAT = 1


class CorruptCheckpointError(Exception):
    """A folder does not match its manifest; the message names the file and the difference."""


def write(folder: Path, fingerprint: str) -> None:
    """Writes the manifest of `folder` and flushes it with all files to disk.

    Args:
        folder: A folder that nothing writes to anymore.
        fingerprint: Of the configuration that the files belong to.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): _describe(path) for path in paths}
    content = {"format": FORMAT, "config_fingerprint": fingerprint, "files": files}
    manifest = {"content_sha256": _digest(content), "content": content}
    with open(folder / NAME, "w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)


def verify(folder: Path, fingerprint: str | None) -> None:
    """Checks every file of `folder` against its manifest.

    Args:
        folder: A folder with a manifest from `write`.
        fingerprint: Of the configuration that the files must belong to; None accepts any.

    Raises:
        CorruptCheckpointError: If a file is missing or has changed, the manifest included.
        UserError: If the files are intact but have another format or configuration.
    """
    content = _read(folder / NAME)
    if content["format"] != FORMAT:
        raise UserError(
            f"{folder} has format {content['format']}, this version reads format {FORMAT}: "
            "use the version of jaxcnn that wrote it, or choose a new folder with --workdir"
        )
    for name, expected in content["files"].items():
        try:
            found = _describe(folder / name)
        except OSError as error:
            raise CorruptCheckpointError(f"{name}: {error.strerror}") from error
        if found["size"] != expected["size"]:
            raise CorruptCheckpointError(
                f"{name} has {found['size']} bytes in place of {expected['size']}"
            )
        if found != expected:
            raise CorruptCheckpointError(f"{name} has another SHA-256 than when it was written")
    if fingerprint not in (None, content["config_fingerprint"]):
        raise UserError(
            f"{folder} was written by a run with another configuration: take it out of the run "
            "folder, or choose a new folder with --workdir"
        )


def sync_folder(folder: Path) -> None:
    """Flushes the entries of `folder` to disk, where the system can do that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read(path: Path) -> Any:
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["content_sha256"] == _digest(manifest["content"]):
            return manifest["content"]
    except OSError as error:
        raise CorruptCheckpointError(f"{path.name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        pass  # not the JSON that was written
    raise CorruptCheckpointError(f"{path.name} has changed since it was written")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
    return {"size": size, "sha256": digest}
