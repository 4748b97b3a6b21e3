"""In which directory does a prepared data set lie?"""

import os
import re
from pathlib import Path

from jaxcnn.errors import UserError

SOURCE_FILE = "jaxcnn_source.json"  # written by prepare: what the data set was made from
DATA_DIR_VARIABLE = "TFDS_DATA_DIR"


def data_root(data_dir: str) -> Path:
    """Returns `data_dir`, or else what TFDS would use, as an absolute path.

    Raises:
        UserError: If it begins with ~ and there is no such home directory.
    """
    chosen = data_dir or os.environ.get(DATA_DIR_VARIABLE) or "~/tensorflow_datasets"
    try:
        return expanded(chosen).absolute()
    except UserError as error:
        raise UserError(
            f"there is no place for data sets: {error}; name one by --data_dir or "
            f"{DATA_DIR_VARIABLE}"
        ) from None


def expanded(path: str) -> Path:
    """Returns a path with the home directory in place of a ~ at its beginning.

    Raises:
        UserError: If there is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"the home directory in {path} is not known here: write the whole path, or set HOME"
        ) from error


def find(root: Path, name: str) -> Path | None:
    """Returns the directory of the newest prepared version of `name`, or None.

    TFDS writes `ROOT/NAME/VERSION`, or `ROOT/NAME/CONFIG/VERSION` for a name `NAME/CONFIG`; the
    description file is there if and only if the preparation ended.

    Raises:
        UserError: The directory may not be read.
    """
    try:
        versions = [
            (tuple(map(int, path.name.split("."))), path)
            for path in (root / name).iterdir()
            if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "dataset_info.json").is_file()
        ]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise UserError(
            f"cannot read {root / name} ({error.strerror}): get leave to, or name another data "
            f"directory by --data_dir or {DATA_DIR_VARIABLE}"
        ) from error
    return max(versions)[1] if versions else None


def is_named(data_dir: str) -> bool:
    """Tells whether somebody chose the data directory, rather than nobody."""
    return bool(data_dir or os.environ.get(DATA_DIR_VARIABLE))
