"""How is a data set prepared from its published files, without TensorFlow?"""

from collections.abc import Sequence
from pathlib import Path

from jaxcnn.data import official, writer
from jaxcnn.data.cifar10 import archive, convert, hosts
from jaxcnn.data.cifar10.published import SETS
from jaxcnn.data.locate import data_root, expanded, find
from jaxcnn.errors import UserError

NAMES = (*SETS, *official.NAMES)
"""What can be prepared."""


def prepare(
    name: str,
    *,
    data_dir: str = "",
    archives: Sequence[str] = (),
    host: str = "",
    allow_modified: bool = False,
) -> Path:
    """Prepares a data set for `load`, from its published files or by downloading them.

    An interrupted preparation leaves nothing that looks like a prepared data set.

    Args:
        name: One of `NAMES`.
        data_dir: Where to put it; created if missing. Empty for `TFDS_DATA_DIR`, then
            `~/tensorflow_datasets`.
        archives: Of CIFAR the binary or python archive, the folder that it unpacks to, or
            parquet files or their folder; of others the published files or their folder; none to
            download.
        host: From where CIFAR is downloaded, one of `hosts.HOSTS`; empty for the first.
        allow_modified: Whether to accept files that are not the published ones; the fingerprint of
            every run then says `modified`.

    Returns:
        The directory of the prepared version. If it was there already, nothing is done.

    Raises:
        UserError: Unusable directory or archive, failed download.
    """
    if name not in NAMES:
        raise UserError(f"cannot prepare {name!r}: only {', '.join(NAMES)}")
    if host and name not in SETS:
        raise UserError(f"--from={host} is for {' and '.join(SETS)}: {name} has one host")
    root = data_root(data_dir)
    if directory := find(root, name):
        return directory
    _make_writable(root)
    contents = (
        read(name, archives, allow_modified=allow_modified)
        if archives
        else _fetch(name, root, host or hosts.HOSTS[0])
    )
    try:
        return writer.write(name, root, contents)
    except OSError as error:
        if directory := find(root, name):  # another process was faster
            return directory
        raise UserError(
            f"cannot prepare {name} in {root}: {error.strerror or error}; make room there or give "
            "another --data_dir"
        ) from error


def read(name: str, paths: Sequence[str], *, allow_modified: bool) -> writer.Contents:
    """Reads the published files of a data set, see `prepare`; raises UserError as it does."""
    given = [expanded(path) for path in paths]
    if name in SETS:
        files = archive.read(given, SETS[name], allow_modified=allow_modified)
        return convert.contents(files, SETS[name])
    return official.read(name, official.find(name, given), allow_modified=allow_modified)


def _fetch(name: str, root: Path, host: str) -> writer.Contents:
    """Downloads the published files and reads them."""
    if name not in SETS:
        return official.read(name, official.fetch(name, root), allow_modified=False)
    cifar = SETS[name]
    if host != "huggingface":
        files = archive.read([hosts.fetch(cifar, root)], cifar, allow_modified=False)
        return convert.contents(files, cifar)
    paths = hosts.fetch_hub(cifar, root)
    try:
        files = archive.read_parquet(paths, cifar, allow_modified=False)
    except UserError:  # what is not as published is not kept: the next download may be
        for path in (path for split in paths.values() for path in split):
            path.unlink()
        raise
    return convert.contents(files, cifar)


def _make_writable(root: Path) -> None:
    """Finds out before a long download whether its result can be kept."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / ".jaxcnn_probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to the data directory {root} ({error.strerror}): give another one by "
            "--data_dir or TFDS_DATA_DIR"
        ) from error
