"""Which kind of data set does a name mean: the embedded one, a folder, or one that TFDS knows?"""

from jaxcnn.data import digits, folder, records
from jaxcnn.data.locate import data_root, find
from jaxcnn.data.splits import Source
from jaxcnn.errors import UserError


def open_source(name: str, data_dir: str, options: folder.Options) -> Source:
    """Opens a data set.

    Args:
        name: As for `load`.
        data_dir: Likewise.
        options: For a folder.

    Raises:
        UserError: It cannot be used, or options are given for what is no folder.
    """
    if name == folder.NAME:
        return folder.source(data_dir, options)
    for key, default in folder.Options()._asdict().items():
        if getattr(options, key) != default:
            raise UserError(
                f"dataset.{key}={getattr(options, key)} is for dataset.name=folder, not {name}: "
                "leave it out"
            )
    return digits.source() if name == digits.NAME else records.source(name, data_dir)


def is_here(name: str, data_dir: str) -> bool:
    """Whether a data set, named as for `load`, can be read without a download.

    Raises:
        UserError: The data directory cannot be used.
    """
    return name in (digits.NAME, folder.NAME) or find(data_root(data_dir), name) is not None
