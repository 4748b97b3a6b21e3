"""What is a split, which examples does a split string name, and how is a part held out?"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxcnn.errors import UserError


class Split(NamedTuple):
    """The examples of one split, in memory.

    Attributes:
        images: uint8 `[N, H, W, C]`, 0..255.
        labels: int32 `[N]`, 0..classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray


class Source(NamedTuple):
    """A data set before anyone chose splits of it.

    Attributes:
        title: Name, version and, for a changed copy, the word `modified`: `cifar10/3.0.2 modified`.
        class_names: One name per label, in label order.
        split_infos: TFDS's description of every whole split, by name.
        read: Gives the whole split of that name.
        identifying: The splits of which the fingerprint is made, as far as there are any.
    """

    title: str
    class_names: tuple[str, ...]
    split_infos: Mapping[str, Any]
    read: Callable[[str], Split]
    identifying: tuple[str, ...] = ("train", "test")


class Piece(NamedTuple):
    """Examples `start` to `stop` (exclusive) of the whole split `name`."""

    name: str
    start: int
    stop: int


def describe(sizes: Mapping[str, int]) -> dict[str, Any]:
    """Returns TFDS's descriptions of splits with so many examples, for `Source`."""
    return {
        name: tfds.core.SplitInfo(
            name=name, shard_lengths=[size], num_bytes=0, filename_template=None
        )
        for name, size in sizes.items()
    }


def resolve(spec: str, source: Source) -> list[Piece]:
    """Returns the pieces that a TFDS split string names, joined in this order.

    Args:
        spec: `train`, `train[:45000]`, `train[90%:]`, `train+test`, as in
            https://www.tensorflow.org/datasets/splits. TFDS itself reads it, so that a string means
            here what it means there.
        source: The data set.

    Raises:
        UserError: If the string is malformed, or names no example, or a split or range that is not
            there.
    """
    try:
        absolute = tfds.core.ReadInstruction.from_spec(spec).to_absolute(source.split_infos)
    except (ValueError, NotImplementedError) as error:
        # TFDS's last line says what is wrong, its further sentences what to do with TFDS.
        reason = str(error).strip().splitlines()[-1].split(". ")[0]
        raise _refusal(spec, source, reason) from error
    pieces = []
    for part in absolute:  # TFDS writes None where a range starts or ends with the split
        stop = source.split_infos[part.splitname].num_examples if part.to is None else part.to
        piece = Piece(part.splitname, part.from_ or 0, stop)
        if piece.start >= piece.stop:
            raise _refusal(spec, source, "it holds no example")
        pieces.append(piece)
    return pieces


def take(pieces: list[Piece], whole: Mapping[str, Split]) -> Split:
    """Returns the named examples; views of the whole split where there is one piece."""
    parts = [
        Split(whole[name].images[start:stop], whole[name].labels[start:stop])
        for name, start, stop in pieces
    ]
    # Nearly always: a copy would double the memory of the data.
    if len(parts) == 1:
        return parts[0]
    return Split(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def overlap(pieces: list[Piece], others: list[Piece]) -> int:
    """Returns how many pairs of one example in `pieces` and the same one in `others` there are."""
    # Examples are told apart by split and position, not by their pixels.
    return sum(
        max(0, min(a.stop, b.stop) - max(a.start, b.start))
        for a in pieces
        for b in others
        if a.name == b.name
    )


def _refusal(spec: str, source: Source, reason: str) -> UserError:
    name = source.title.split("/")[0]
    sizes = ", ".join(f"{n} ({i.num_examples:,} examples)" for n, i in source.split_infos.items())
    return UserError(
        f"split {spec!r} of {name} cannot be used: {reason.rstrip('.')}; {name} has {sizes}, to be "
        "written like 'train', 'train[:1000]', 'train[90%:]' or 'train+test'"
    )


def stratified_choice(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Chooses `count` examples so that every class keeps its share, the same ones every time.

    Shares are rounded down; the examples still missing go to the classes that lost most by it, the
    smaller label first. Within a class `RandomState` chooses: NumPy promises that its stream never
    changes (NEP 19), which it does not promise of `default_rng`.

    Args:
        labels: int32 `[N]`.
        count: How many to choose, at most N.
        seed: Of the choice within each class, from 0 on, below 2**32.

    Returns:
        bool `[N]`, true for the chosen.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    quotas, remainders = np.divmod(sizes * count, len(labels))
    largest = np.argsort(-remainders, kind="stable")[: count - quotas.sum()]
    # Largest remainders: the quotas add up to `count`.
    quotas[largest] += 1
    chosen = np.zeros(len(labels), bool)
    random = np.random.RandomState(seed)
    for label, quota in zip(classes, quotas, strict=True):
        chosen[random.permutation(np.flatnonzero(labels == label))[:quota]] = True
    return chosen
