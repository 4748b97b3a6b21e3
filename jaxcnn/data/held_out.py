"""Which training and validation images had a part neither in a training nor in its evaluation?"""

from typing import Any

from jaxcnn.data import folder
from jaxcnn.data.sources import open_source
from jaxcnn.data.splits import Piece, resolve

_SPLITS = ("train", "validation")  # never the test split: what is fitted to it says nothing


def held_out(
    name: str, *, data_dir: str, train_split: str, eval_split: str, **of_folder: Any
) -> str:
    """Returns a TFDS split string of the training and validation images that are in no split.

    Args:
        name: As for `load`.
        data_dir: Likewise.
        train_split: Likewise.
        eval_split: Likewise.
        **of_folder: Likewise.

    Returns:
        Such as `train[45000:50000]`; "" if there are none.

    Raises:
        UserError: As for `load`.
    """
    source = open_source(name, data_dir, folder.Options(**of_folder))
    used = resolve(train_split, source) + resolve(eval_split, source)
    pieces = []
    for split in _SPLITS:
        if split in source.split_infos:
            whole = Piece(split, 0, source.split_infos[split].num_examples)
            pieces += without(whole, used)
    return "+".join(f"{name}[{start}:{stop}]" for name, start, stop in pieces)


def without(whole: Piece, used: list[Piece]) -> list[Piece]:
    """Returns what remains of a piece without the examples of others, in order."""
    left, begin = [], whole.start
    for piece in sorted(piece for piece in used if piece.name == whole.name):
        if piece.start > begin:
            left.append(Piece(whole.name, begin, min(piece.start, whole.stop)))
        begin = max(begin, piece.stop)
    if begin < whole.stop:
        left.append(Piece(whole.name, begin, whole.stop))
    return left
