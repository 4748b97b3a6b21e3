"""What the command line can call by name: configurations, networks and data sets."""

import textwrap

from jaxcnn import models
from jaxcnn.config import files
from jaxcnn.data import digits, folder, official
from jaxcnn.data.cifar10.published import SETS


def describe() -> str:
    """Returns a paragraph for each kind of name, in lines of at most 80 characters."""
    rows = {
        "configurations": ", ".join(files.names()),
        "networks": ", ".join(models.FAMILY),
        "data sets": f"{digits.NAME} (part of the installation), {folder.NAME} (your own images, "
        f"--data_dir=PATH with PATH/train/CLASS/), {', '.join(SETS)} (downloaded on first use), "
        f"{', '.join(official.NAMES)} (by `jaxcnn prepare`), and others that TFDS has prepared",
    }
    return "\n".join(
        textwrap.fill(f"{kind + ':':16}{names}", 80, subsequent_indent=" " * 16)
        for kind, names in rows.items()
    )
