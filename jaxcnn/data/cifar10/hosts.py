"""From where can CIFAR be downloaded, and what can be done where that fails?"""

from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from jaxcnn.data.cifar10.published import Cifar
from jaxcnn.data.download import fetch_file

HOSTS = ("toronto", "huggingface")
"""The author's page, which has the archives, and Hugging Face, which has parquet files."""


def fetch(cifar: Cifar, root: Path) -> Path:
    """Returns the path of the published binary archive, downloading it unless it is there.

    Args:
        cifar: Which archive; its size and SHA-256 are checked.
        root: The data directory, see `fetch_file`.

    Raises:
        UserError: As `fetch_file`, with the ways to do without the download.
    """
    layout = cifar.binary
    url_info = checksums.UrlInfo(
        size=tfds.core.utils.Size(layout.archive_bytes),
        checksum=layout.archive_sha256,
        filename=layout.archive_name,
    )
    return fetch_file(layout.url, url_info, cifar.name, root, _ways_out(cifar))


def fetch_hub(cifar: Cifar, root: Path) -> dict[str, list[Path]]:
    """Returns the parquet files of each split from Hugging Face, downloading what is not there.

    They have no published checksums: what they hold is checked when they are read.

    Raises:
        UserError: As `fetch`.
    """
    return {
        split: [fetch_file(url, None, cifar.name, root, _ways_out(cifar))]
        for split, url in cifar.hub.items()
    }


def _ways_out(cifar: Cifar) -> str:
    name = "" if cifar.name == "cifar10" else f" {cifar.name}"
    return (
        f"four ways out: run `jaxcnn prepare{name} --from huggingface`, or `--from toronto`, the "
        "other host; or get the data by other means and run "
        f"`jaxcnn prepare{name} --archive {cifar.binary.archive_name}` (or "
        f"{cifar.python.archive_name}, or the unpacked folder, or Hugging Face's parquet files); "
        f"or let --data_dir or TFDS_DATA_DIR name a directory in which {cifar.name} is prepared; "
        "or train on the embedded data set: --config mobilenet:digits"
    )
