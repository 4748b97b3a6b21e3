"""Where do the images of a run come from, and which are they?

`load` is the only function that training needs. It never imports TensorFlow and never unpickles.
"""

import hashlib
import json
import logging
from typing import Any, NamedTuple

from jaxcnn.data import folder
from jaxcnn.data.sources import open_source
from jaxcnn.data.splits import Source, Split, overlap, resolve, take

__all__ = ["Dataset", "Split", "load"]

_logger = logging.getLogger(__name__)


class Dataset(NamedTuple):
    """The two splits of a run.

    Attributes:
        train: The examples to learn from.
        eval: The examples to measure on.
        class_names: One name per label, in label order.
        fingerprint: Which data this is, such as `cifar10/3.0.2 sha256:0123456789abcdef`; see
            `load`.
        eval_split: The split string of `eval`.
    """

    train: Split
    eval: Split
    class_names: tuple[str, ...]
    fingerprint: str
    eval_split: str = ""


def load(
    name: str, *, data_dir: str, train_split: str, eval_split: str, **of_folder: Any
) -> Dataset:
    """Loads two splits of a data set into memory.

    The fingerprint is the name, the version, the word `modified` where the data set was prepared
    from a copy that is not the published one, and the start of a SHA-256 over the class names and
    all decoded pixels and labels of the splits `train` and `test` (of a folder, all; and of another
    split, if it is used), in order. It is computed from the very arrays that are returned. So it
    depends neither on where the data lies, nor on how it was packed, nor on the chosen slices.

    Args:
        name: `digits` for the embedded data set, `folder` for one's own images, else a TFDS name.
            `cifar10` and `cifar100` are downloaded and prepared on first use; others have to be
            prepared.
        data_dir: A TFDS data directory; empty for the environment variable `TFDS_DATA_DIR`, then
            `~/tensorflow_datasets`. The folder of `folder`. Not used for `digits`.
        train_split: TFDS split string, such as `train` or `train[:45000]`.
        eval_split: Likewise, such as `test` or `train[45000:]`; `auto` for `validation` or, where
            there is none, `test`.
        **of_folder: The fields of `folder.Options`, for a folder.

    Returns:
        Images uint8 `[N, H, W, C]`, 0..255, and labels int32 `[N]`. May share memory; do not write.

    Raises:
        UserError: An unknown name, an unusable directory or split, a failed download.
    """
    source = open_source(name, data_dir, folder.Options(**of_folder))
    if eval_split == "auto":
        eval_split = "validation" if "validation" in source.split_infos else "test"
    train, evaluation = resolve(train_split, source), resolve(eval_split, source)
    if shared := overlap(train, evaluation):
        _logger.warning(
            "%d examples of %s are in both splits, %r and %r: the evaluation is not a fair test",
            *(shared, name, train_split, eval_split),
        )
    names = {piece.name for piece in train + evaluation}
    names.update(set(source.identifying) & set(source.split_infos))
    whole = {split: source.read(split) for split in sorted(names)}
    return Dataset(
        take(train, whole),
        take(evaluation, whole),
        source.class_names,
        _fingerprint(source, whole),
        eval_split,
    )


def _fingerprint(source: Source, whole: dict[str, Split]) -> str:
    digest = hashlib.sha256(json.dumps(source.class_names).encode())
    for name, split in sorted(whole.items()):
        digest.update(json.dumps([name, split.images.shape]).encode())
        digest.update(split.images.data)
        digest.update(split.labels.astype("<i4").data)  # the same on any byte order
    return f"{source.title} sha256:{digest.hexdigest()[:16]}"
