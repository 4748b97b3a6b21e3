"""Which images and classes does a folder of one's own hold?

    PATH/train/CLASS/any/depth/IMAGE
    PATH/val/CLASS/IMAGE, PATH/test/CLASS/IMAGE

Without `val` (or `valid`, `validation`) and `test`, a part of `train` is held out as `validation`.
"""

import functools
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcnn.data import cache, decoded, image_paths, locate
from jaxcnn.data.splits import Source, Split, describe, stratified_choice
from jaxcnn.errors import UserError

NAME = "folder"
_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)  # by the folder's name, whatever its case
_LAYOUT = "needed is PATH/train/CLASS/IMAGE and, if there are any, PATH/val/... and PATH/test/..."
_logger = logging.getLogger(__name__)


class Options(NamedTuple):
    """How a folder is read; the section `dataset` of the configuration has the same names.

    Attributes:
        image_size: Height and width of the images, pixels.
        holdout: Fraction of each class of `train` that is held out where there is no other split.
        holdout_seed: Of the choice of those images.
        unreadable: `refuse` or `skip` files that cannot be read.
    """

    image_size: int = 32
    holdout: float = 0.1
    holdout_seed: int = 0
    unreadable: str = "refuse"


class Listing(NamedTuple):
    """The image files of a split.

    Attributes:
        folder: The folder of the split.
        names: Paths below it, in the order of the examples.
        labels: int32 `[N]`.
    """

    folder: Path
    names: list[str]
    labels: np.ndarray

    def where(self, mask: np.ndarray) -> "Listing":
        """Returns the files at which `mask`, bool `[N]`, is True."""
        names = [name for name, is_meant in zip(self.names, mask, strict=True) if is_meant]
        return self._replace(names=names, labels=self.labels[mask])


def source(data_dir: str, options: Options) -> Source:
    """Opens a folder of images in class folders.

    Classes are the names of their folders, sorted. Examples stand in the order of the SHA-256 of
    their path below the split's folder, which is the same everywhere and mixes the classes, so that
    a slice such as `train[:90%]` has some of each.

    Raises:
        UserError: The folder is not laid out as needed, or has files that cannot be read.
    """
    root = _root(data_dir)
    folders = _split_folders(root)
    classes = {split: _classes(folder) for split, folder in folders.items()}
    names = classes["train"]
    for split, others in classes.items():
        _check_equal(names, others, folders["train"], folders[split])
    listings = {split: _listing(folder, names) for split, folder in folders.items()}
    if len(listings) == 1:
        listings |= _hold_out(listings["train"], options)
    _check_classes(listings["train"], names)

    @functools.cache
    def read(split: str) -> Split:
        return _read(root, split, listings[split], names, options)

    # How many images remain of a split is known before it is decoded, unless some may be skipped.
    sizes = {
        split: len(read(split).labels if options.unreadable == "skip" else listing.names)
        for split, listing in listings.items()
    }
    title = f"{NAME}/{options.image_size}px"
    return Source(title, tuple(map(_shown, names)), describe(sizes), read, tuple(listings))


def _root(data_dir: str) -> Path:
    if not data_dir:
        raise UserError(
            f"dataset.name=folder needs the folder of your images: --data_dir=PATH, where {_LAYOUT}"
        )
    root = locate.expanded(data_dir).absolute()
    if not root.is_dir():
        kind = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise UserError(f"the folder of images {root} {kind}: correct --data_dir")
    return root


def _split_folders(root: Path) -> dict[str, Path]:
    """Returns the folder of each split."""
    found: dict[str, Path] = {}
    others = []
    for name in _entries(root, folders=True):
        split = _SPLITS.get(name.lower())
        if split is None:
            others.append(name)
        elif split in found:
            raise UserError(
                f"{root} has two folders of the split {split}, {found[split].name} and {name}: "
                "leave one there"
            )
        else:
            found[split] = root / name
    others = [name for name in others if name != cache.FOLDER]
    if "train" not in found:
        images = [name for name in _entries(root, folders=False) if image_paths.is_image_name(name)]
        has = _some(others) or _some(images) or "nothing"
        raise UserError(f"{root} has no folder train, it has {has}: {_LAYOUT}")
    if others:
        _logger.warning("not used: %s of %s, only train, val and test are", _some(others), root)
    return found


def _classes(folder: Path) -> list[str]:
    """Returns the names of the class folders, sorted."""
    astray = [name for name in _entries(folder, folders=False) if image_paths.is_image_name(name)]
    if astray:
        raise UserError(
            f"{folder} has {len(astray):,} images in no class folder, such as {astray[0]}: "
            f"{_LAYOUT}"
        )
    return _entries(folder, folders=True)


def _entries(folder: Path, *, folders: bool) -> list[str]:
    """Returns the names of a folder's folders, or of all else in it, sorted, but private ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.is_dir() == folders and not image_paths.is_private(entry.name)
            )
    except OSError as error:
        raise UserError(
            f"cannot read the folder {folder} ({error.strerror}): make it readable"
        ) from error


def _check_equal(names: list[str], others: list[str], folder: Path, other: Path) -> None:
    lacking, odd = sorted(set(names) - set(others)), sorted(set(others) - set(names))
    if lacking or odd:
        differences = [f"{other} lacks {_some(lacking)}"] * bool(lacking)
        differences += [f"{folder} lacks {_some(odd)}"] * bool(odd)
        raise UserError(
            f"the classes differ: {', and '.join(differences)}; every split needs the same ones"
        )


def _listing(folder: Path, classes: list[str]) -> Listing:
    """Returns the image files of a split; UserError for a class without any."""
    labels: dict[str, int] = {}
    others: Counter[str] = Counter()
    empty = []
    for label, name in enumerate(classes):
        before = len(labels)
        for path in image_paths.files_below(folder / name, _refuse):
            if image_paths.is_image_name(path.name):
                labels[path.relative_to(folder).as_posix()] = label
            else:
                others[path.suffix.lower() or "no suffix"] += 1
        if len(labels) == before:
            empty.append(name)
    if empty:
        raise UserError(
            f"{folder} has no image of {_some(empty)}: looked for "
            f"{', '.join(image_paths.SUFFIXES)}; add some, or remove the class from every split"
        )
    if others:
        some = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(5))
        _logger.warning("files that are no images by their names, in %s: %s", folder, some)
    names = sorted(labels, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    return Listing(folder, names, np.array([labels[name] for name in names], np.int32))


def _refuse(line: str) -> None:
    raise UserError(line)


def _hold_out(listing: Listing, options: Options) -> dict[str, Listing]:
    """Returns the two parts of a split, with the same fraction of every class in each."""
    count = len(listing.names)
    held = min(max(1, round(options.holdout * count)), count)
    mask = stratified_choice(listing.labels, held, options.holdout_seed)
    return {"train": listing.where(~mask), "validation": listing.where(mask)}


def _check_classes(listing: Listing, classes: list[str]) -> None:
    """Raises UserError unless there are classes, with an image of each to train on."""
    if len(classes) < 2:
        has = f"the one class {_some(classes)}" if classes else "no class folder"
        raise UserError(f"{listing.folder} has {has}, at least two are needed: {_LAYOUT}")
    missing = np.setdiff1d(np.arange(len(classes)), listing.labels)
    if len(missing):
        raise UserError(
            f"{listing.folder} leaves no image of {_some([classes[i] for i in missing])} to train "
            "on, by what is held out or cannot be read: add some, or lower dataset.holdout"
        )


def _read(root: Path, split: str, listing: Listing, classes: list[str], options: Options) -> Split:
    """Decodes a split, or finds it decoded."""
    size, folder = options.image_size, listing.folder
    place = root / cache.FOLDER / f"{split}-{size}"
    images, refused = decoded.read_or_make(folder, listing.names, (size, size, 3), place)
    kept = np.ones(len(listing.names), bool)
    if refused:
        lines = [f"{listing.names[index]} ({reason})" for index, reason in refused.items()]
        told = (
            f"{len(refused):,} of {len(listing.names):,} image files of {folder} cannot be read: "
            f"{_some(lines)}"
        )
        if options.unreadable == "refuse":
            raise UserError(f"{told}; mend or remove them, or set dataset.unreadable=skip")
        _logger.warning("left out: %s", told)
        kept[list(refused)] = False
        if split == "train":
            _check_classes(listing.where(kept), classes)
    return Split(images, listing.labels[kept])


def _some(names: Iterable[str]) -> str:
    """Returns the first five names, and how many more there are; "" for none."""
    names = list(names)
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(map(_shown, names[:5])) + more


def _shown(name: str) -> str:
    """Returns a name of a file as text: what is no text in it stands there as an escape."""
    return os.fsencode(name).decode(errors="backslashreplace")
