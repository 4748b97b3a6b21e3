"""Configuration files by name: `mobilenet` is configs/mobilenet.py, wherever that is."""

import difflib
from pathlib import Path

from jaxcnn.errors import UserError

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Returns the folder of the project's configuration files."""
    installed = _PACKAGE / "configs"  # the wheel has them inside the package
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """Returns the names of the project's configuration files, such as `mobilenet`."""
    return sorted(path.stem for path in folder().glob("*.py"))


def find(source: str) -> str:
    """Returns `source` with a path where it has a name.

    Args:
        source: FILE, FILE:DATASET, NAME or NAME:DATASET. An existing file comes before a name.

    Returns:
        FILE or FILE:DATASET, where FILE exists.

    Raises:
        UserError: If there is neither such a file nor such a name.
    """
    name, colon, dataset = source.partition(":")
    if Path(name).is_file():
        return source
    known = names()
    if name in known:
        return f"{folder() / name}.py{colon}{dataset}"
    close = difflib.get_close_matches(Path(name).stem, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "give one of these or the path of a file"
    raise UserError(f"{name}: there is no such file; the names are {', '.join(known)}: {hint}")
