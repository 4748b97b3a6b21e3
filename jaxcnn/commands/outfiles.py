"""Files of results: looked at before the work that they are for, and read as what may be damaged.

For verbs and scripts alike. A file that cannot be written is refused before a result is there that
could be lost.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxcnn.errors import UserError
from jaxcnn.run.folder import write_atomically

T = TypeVar("T")


def check_file(flag: str, path: Path, suffixes: Sequence[str]) -> None:
    """Checks that a file can be written; writes nothing.

    Args:
        flag: The flag that names the file, such as --out.
        path: The file. One that exists is written over.
        suffixes: Endings of the formats that the file can have; "" stands for none.

    Raises:
        UserError: If it cannot, naming what is wrong and the remedy.
    """
    if path.is_dir():
        raise _refusal(flag, path, "it is a folder", "name a file in it")
    if os.path.lexists(path) and not path.exists():
        raise _refusal(flag, path, "it is a link to nothing", "remove it, or name another file")
    if path.exists() and not path.is_file():  # a pipe or a device has no format and no folder
        if not os.access(path, os.W_OK):
            raise _refusal(flag, path, "it is not writable", "name another file")
        return
    if path.suffix.lower() not in suffixes:
        allowed = " or ".join(suffix or "none" for suffix in suffixes)
        raise _refusal(flag, path, f"its ending is {path.suffix or 'none'!r}", f"use {allowed}")
    if not path.parent.is_dir():
        raise _refusal(flag, path, f"there is no folder {path.parent}", "make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise _refusal(flag, path, "it is not writable", "name another file")


def check_folder(flag: str, path: Path, files: Iterable[str] = ()) -> None:
    """Checks that a folder exists, or can be made, and that its files can be written.

    Raises:
        UserError: If it cannot, naming what is wrong and the remedy.
    """
    nearest = path
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise _refusal(flag, path, f"{nearest} is no folder", "name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _refusal(flag, path, f"{nearest} is not writable", "name another folder")
    for name in files:
        if (path / name).is_dir():
            raise _refusal(flag, path / name, "it is a folder", "remove it, or name another folder")


def write(flag: str, path: Path, text: str) -> None:
    """Writes a file that `check_file` has let pass: whole, or not at all.

    Raises:
        UserError: If the system refuses.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        else:
            write_atomically(path.resolve(), text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise _refusal(flag, path, reason, "mend this, or name another file") from error


def read(path: Path, use: Callable[[Any], T]) -> T:
    """Returns what `use` makes of the content of a JSON file of results.

    Raises:
        UserError: If the file cannot be read, is not JSON, or has not what `use` looks for.
    """
    remedy = "restore it, or name a file that this program has written"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({_one_line(error)}): {remedy}") from error
    try:
        return use(content)
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"{type(error).__name__} {_one_line(error)}"
        raise UserError(f"{path} holds no such results ({what}): {remedy}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _refusal(flag: str, path: Path, reason: str, remedy: str) -> UserError:
    return UserError(f"{flag}={path} cannot be written, {reason}: {remedy}")
