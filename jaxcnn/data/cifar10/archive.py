"""How is a CIFAR archive or folder read without trusting it?

Nothing is unpacked onto the disk: the few expected files are read into memory by their exact
names, so a path in an archive leads nowhere, and no file larger than the largest published one is
read.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxcnn.data.cifar10 import parquet
from jaxcnn.data.cifar10.published import Cifar, Layout
from jaxcnn.errors import UserError


class Files(NamedTuple):
    """The example files of a data set and where they came from.

    Attributes:
        layout: Which form it is.
        content: Bytes by file name, for the layout's `train` and `test`.
        origin: For people: the archive's or folder's name and what its checksums say.
        modified: Whether it is anything but the published data.
    """

    layout: Layout
    content: dict[str, bytes]
    origin: str
    modified: bool


def read(paths: Sequence[Path], cifar: Cifar, *, allow_modified: bool) -> Files:
    """Reads the example files from an archive, from an unpacked folder or from parquet files.

    Args:
        paths: The binary or the python archive, the folder that one of them unpacks to, the folder
            above it, or the folder of parquet files; or parquet files, of which there may be
            several.
        cifar: Which data set to expect.
        allow_modified: Whether to accept what is not the published data.

    Raises:
        UserError: Nothing is there, it is damaged, or it is modified and that is not allowed.
    """
    path, *others = paths
    if others and (odd := [str(each) for each in paths if not parquet.is_meant(each)]):
        raise UserError(f"{odd[0]} is one of several archives: only parquet files may be several")
    try:
        found = {} if path.is_dir() and _layout(path, cifar) else parquet.find(paths)
        if found:
            return read_parquet(found, cifar, allow_modified=allow_modified)
        if path.is_dir():
            layout, content = _read_folder(path, cifar)
            differing = _differing(layout, content)
            modified, origin = bool(differing), f"folder {path.resolve().name}"
            trouble = f"these files do not have the published checksums: {', '.join(differing)}"
        else:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            # Read before comparing checksums: that an archive broke off explains more.
            layout, content = _read_tar(path, cifar)
            modified, origin = sha256 != layout.archive_sha256, f"{path.name} sha256:{sha256}"
            trouble = (
                f"its SHA-256 is {sha256} ({path.stat().st_size:,} bytes), the published "
                f"{layout.archive_name} has {layout.archive_sha256} ({layout.archive_bytes:,} "
                "bytes)"
            )
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; give {cifar.binary.archive_name}, "
            f"{cifar.python.archive_name}, the folder that one of them unpacks to, or parquet files"
        ) from error
    if modified and not allow_modified:
        raise _modified(str(path), cifar, trouble)
    return Files(layout, content, origin, modified)


def read_parquet(
    files: Mapping[str, Sequence[Path]], cifar: Cifar, *, allow_modified: bool
) -> Files:
    """Reads parquet files of the splits `train` and `test`; as `read`, but for OSError."""
    content = parquet.read(files, cifar)
    paths = [path for split in parquet.SPLITS for path in files[split]]
    modified = bool(_differing(cifar.binary, content))
    if modified and not allow_modified:
        trouble = "pixels or labels are not the published ones, or in another order"
        raise _modified(" with ".join(map(str, paths)), cifar, trouble)
    return Files(cifar.binary, content, ", ".join(path.name for path in paths), modified)


def _differing(layout: Layout, content: dict[str, bytes]) -> list[str]:
    """Returns the names of the files that have not the published checksums."""
    return [
        name
        for name, checksum in (layout.train | layout.test).items()
        if hashlib.new(layout.checksum, content[name]).hexdigest() != checksum
    ]


def _modified(what: str, cifar: Cifar, trouble: str) -> UserError:
    return UserError(
        f"{what} is not the published {cifar.name}: {trouble}; get the published one, or add "
        "--allow-modified to use this one, which every run will then say"
    )


def _layout(path: Path, cifar: Cifar) -> tuple[Layout, Path] | None:
    """Returns the layout of which a folder has files, and where they are; None if it has none."""
    for layout in (cifar.binary, cifar.python):
        for folder in (path, path / layout.folder):
            if any((folder / name).is_file() for name in (*layout.train, *layout.test)):
                return layout, folder
    return None


def _read_folder(path: Path, cifar: Cifar) -> tuple[Layout, dict[str, bytes]]:
    found = _layout(path, cifar)
    if found is None:
        raise UserError(
            f"{path} holds no {cifar.name} files: expected {', '.join(cifar.binary.train)} or "
            f"{', '.join(cifar.python.train)}, or a folder {cifar.binary.folder} or "
            f"{cifar.python.folder}, or parquet files"
        )
    layout, folder = found
    names = [*layout.train, *layout.test]
    if missing := [name for name in sorted(names) if not (folder / name).is_file()]:
        raise UserError(f"{folder} lacks {', '.join(missing)}: unpack it again")
    for name in names:
        _check_size(f"{folder / name}", (folder / name).stat().st_size, layout)
    return layout, {name: (folder / name).read_bytes() for name in names}


def _read_tar(path: Path, cifar: Cifar) -> tuple[Layout, dict[str, bytes]]:
    expected = {
        f"{layout.folder}/{name}": (layout, name)
        for layout in (cifar.binary, cifar.python)
        for name in (*layout.train, *layout.test)
    }
    largest = max(cifar.binary.largest_file, cifar.python.largest_file)
    found: dict[str, dict[str, bytes]] = {}
    layout = cifar.binary
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.size > largest:  # also bounds what skipping a member can cost
                    raise UserError(f"{path} holds {member.name!r} of {member.size:,} bytes")
                key = member.name.removeprefix("./")
                if key not in expected or not member.isreg():
                    continue
                layout, name = expected[key]
                _check_size(f"{path}: {key}", member.size, layout)
                file = tar.extractfile(member)
                assert file is not None  # true of every regular file
                found.setdefault(layout.folder, {})[name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is truncated or damaged, or no tar archive ({path.stat().st_size:,} bytes; "
            f"the published {cifar.binary.archive_name} has {cifar.binary.archive_bytes:,}): get "
            "it again"
        ) from error
    content = found.get(layout.folder, {})
    if missing := {*layout.train, *layout.test} - set(content):
        raise UserError(
            f"{path} lacks {', '.join(sorted(missing))} in {layout.folder}: give "
            f"{cifar.binary.archive_name} or {cifar.python.archive_name}"
        )
    return layout, content


def _check_size(where: str, size: int, layout: Layout) -> None:
    if size > layout.largest_file:
        raise UserError(
            f"{where} has {size:,} bytes, more than the {layout.largest_file:,} that a file of "
            f"{layout.archive_name} can have: it is something else"
        )
