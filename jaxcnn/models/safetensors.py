"""Named arrays and text in a safetensors file: written atomically, refused where damaged.

The format (https://huggingface.co/docs/safetensors) holds no code. It stands at this level since
networks are made of it (`models.pretrained`) as well as written to it (`exchange`).
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as library

from jaxcnn.errors import UserError

SUFFIX = ".safetensors"


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        arrays: By name, such as "params/conv1/kernel"; not writable.
        metadata: Texts by name; {} if there are none.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def write(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a file; one that is there is replaced whole or not at all.

    Two writes give the same bytes if `metadata` has at most one entry: the library orders the
    arrays, but not the texts.

    Args:
        path: The file; its folder must exist.
        arrays: Numpy or JAX arrays by name, of booleans, integers or floats of 16 bits or more.
        metadata: Texts by name.

    Raises:
        UserError: If the file cannot be written.
    """
    path = Path(path)
    # The library writes memory as it lies, so a transposed view needs a copy.
    rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = library.save(rows, dict(metadata or {}))
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the file from colleagues
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): name a file in a folder that is writable"
        ) from error


def read(path: str | Path) -> Content:
    """Reads a file that `write` or any other program has written.

    Raises:
        UserError: If it cannot be read, is damaged, or holds numbers that numpy does not have.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): name a {SUFFIX} file that is there"
        ) from error
    try:
        arrays = library.load(content)
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is damaged or no safetensors file ({reason}): get a whole copy"
        ) from error
    except KeyError as error:
        raise UserError(
            f"{path} holds numbers of the type {error.args[0]}, which is not read here: save them "
            "as F16 or F32"
        ) from error
    length = int.from_bytes(content[:8], "little")  # of the header, which is valid by now
    return Content(arrays, json.loads(content[8 : 8 + length]).get("__metadata__", {}))
