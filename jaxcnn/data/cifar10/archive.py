"""How is a CIFAR archive or folder read without trusting it?

Nothing is unpacked onto the disk: the few expected files are read into memory by their exact
names, so a path in an archive leads nowhere, and no file larger than the largest published one is
read.
"""

import hashlib
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

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


def read(path: Path, cifar: Cifar, *, allow_modified: bool) -> Files:
    """Reads the example files from an archive or from an unpacked folder.

    Args:
        path: The binary or the python archive, the folder that one of them unpacks to, or the
            folder above it.
        cifar: Which data set to expect.
        allow_modified: Whether to accept what is not the published data.

    Raises:
        UserError: Nothing is there, it is damaged, or it is modified and that is not allowed.
    """
    try:
        if path.is_dir():
            layout, content = _read_folder(path, cifar)
            differing = [
                name
                for name, checksum in (layout.train | layout.test).items()
                if hashlib.new(layout.checksum, content[name]).hexdigest() != checksum
            ]
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
            f"{cifar.python.archive_name} or the folder that one of them unpacks to"
        ) from error
    if modified and not allow_modified:
        raise UserError(
            f"{path} is not the published {cifar.name}: {trouble}; get the published one, or add "
            "--allow-modified to use this one, which every run will then say"
        )
    return Files(layout, content, origin, modified)


def _read_folder(path: Path, cifar: Cifar) -> tuple[Layout, dict[str, bytes]]:
    for layout in (cifar.binary, cifar.python):
        for folder in (path, path / layout.folder):
            names = [*layout.train, *layout.test]
            found = [name for name in names if (folder / name).is_file()]
            if not found:
                continue
            if missing := set(names) - set(found):
                raise UserError(f"{folder} lacks {', '.join(sorted(missing))}: unpack it again")
            for name in names:
                _check_size(f"{folder / name}", (folder / name).stat().st_size, layout)
            return layout, {name: (folder / name).read_bytes() for name in names}
    raise UserError(
        f"{path} holds no {cifar.name} files: expected {', '.join(cifar.binary.train)} or "
        f"{', '.join(cifar.python.train)}, or a folder {cifar.binary.folder} or "
        f"{cifar.python.folder}"
    )


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
