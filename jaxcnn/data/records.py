"""How is a prepared TFDS data set opened and decoded, without TensorFlow?"""

import contextlib
import difflib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, UnidentifiedImageError

from jaxcnn.data import cache, official, prepare, unprepared
from jaxcnn.data.cifar10.published import SETS
from jaxcnn.data.locate import SOURCE_FILE, data_root, find, is_named
from jaxcnn.data.meter import Meter
from jaxcnn.data.splits import Source, Split
from jaxcnn.errors import UserError

_SUGGESTED = ("digits", "folder", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn_cropped")
_MODES = {1: "L", 3: "RGB"}  # Pillow's name for images of so many channels
# Records per read: one by one, each costs a call of the reader as well.
_CHUNK = 1000


def source(name: str, data_dir: str) -> Source:
    """Opens a data set; CIFAR-10 and CIFAR-100 are downloaded and prepared if need be.

    Args:
        name: Its TFDS name, `NAME` or `NAME/CONFIG`.
        data_dir: The TFDS data directory; empty for the default, see `locate.data_root`.

    Raises:
        UserError: There is no such data set, it is not prepared, or it cannot be used.
    """
    root = data_root(data_dir)
    # The name becomes part of a path: nothing like ".." may get there.
    if not re.fullmatch(r"[a-z][a-z0-9_]*(/[\w.-]*\w)?", name):
        raise _unknown(name)
    if is_named(data_dir) and not os.path.isdir(root):
        raise UserError(
            f"the data directory {root} does not exist: create it to have the data put there, or "
            "correct --data_dir or TFDS_DATA_DIR"
        )
    directory = find(root, name)
    if directory is None:
        # The most likely mistake: the data set's own folder was named.
        if root.name == name or root.parent.name == name:
            above = root.parent if root.name == name else root.parent.parent
            raise UserError(f"{root} lies inside the data directory: give {above} instead")
        if name in official.NAMES:
            option = f" --data_dir {root}" if data_dir else ""
            raise UserError(
                f"{name} is not prepared in {root}: run `jaxcnn prepare {name}{option}`, which "
                "downloads it, or add --archive FOLDER with its published files"
            )
        if name not in SETS:
            _check_usable(name, root)
            raise UserError(f"{name} is not prepared in {root}: {_preparation(name, root)}")
        directory = prepare.prepare(name, data_dir=data_dir)
    builder = _open(directory, name, root)
    modified = " modified" if _is_modified(directory) else ""
    names = builder.info.features["label"].names

    def read(split: str) -> Split:
        count = builder.info.splits[split].num_examples
        # The whole split, whatever part of it is wanted: so one file serves every split string.
        return cache.read_or_make(directory, split, count, lambda: _decode(builder, split))

    title = f"{name}/{directory.name}{modified}"
    return Source(title, tuple(names), builder.info.splits, read)


def _check_usable(name: str, root: Path) -> None:
    """Raises UserError unless TFDS knows a data set of that name, which is usable when prepared.

    That is looked up in the description that comes with TFDS. A few descriptions need TensorFlow
    or another library; of those nothing is known before they are prepared.
    """
    base, _, config = name.partition("/")
    try:
        configs = tfds.builder_cls(base).builder_configs
        known = not config or config in configs
    except tfds.core.registered.DatasetNotFoundError:
        known = False
    except ImportError:
        return
    if not known:
        raise _unknown(name)
    try:
        with unprepared.builders(), _muted():  # TFDS prints how to install TensorFlow
            info = tfds.builder(name, data_dir=root).info
            features = dict(info.features.items())
    except Exception:  # whatever a description leads to that lacks a library
        return
    _check_features(name, features)
    shape = features["image"].shape
    if configs and not config:
        some = ", ".join(f"{name}/{other}" for other in list(configs)[:5])
        raise UserError(f"{name} is {len(configs)} data sets, name one of them, such as {some}")
    if None in shape:
        raise UserError(
            f"{name} cannot be used: its images have several sizes, as TFDS describes them (shape "
            f"{shape}); allowed are data sets of one size, such as {', '.join(_SUGGESTED)}"
        )


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """While entered, what is printed is lost."""
    lost = io.StringIO()
    with contextlib.redirect_stdout(lost), contextlib.redirect_stderr(lost):
        yield


def _unknown(name: str) -> UserError:
    close = _closest(name)
    return UserError(
        f"unknown data set {name!r}{f', did you mean {close!r}?' if close else ':'} allowed are "
        f"{', '.join(_SUGGESTED)} and every other image-classification data set of TFDS whose "
        "images have one size"
    )


def _closest(name: str) -> str | None:
    """Returns the name of a data set that differs least, or not at all without case and signs."""
    known = [*_SUGGESTED, *tfds.list_builders(with_community_datasets=False)]
    base, slash, _ = name.partition("/")
    if slash and base in known[2:]:  # digits and folder, the first, are none of TFDS
        configs = [f"{base}/{config}" for config in tfds.builder_cls(base).builder_configs]
        return next(iter(difflib.get_close_matches(name, configs, n=1)), None)
    plain = {re.sub("[^a-z0-9]", "", other): other for other in reversed(known)}
    wanted = re.sub("[^a-z0-9]", "", name.lower())
    if wanted in plain:
        return plain[wanted]
    close = difflib.get_close_matches(name.lower(), _SUGGESTED, n=1)
    if not close and len(wanted) > 2:
        close = [other for other in known if other.startswith(wanted)]
    close = close or [plain[p] for p in difflib.get_close_matches(wanted, plain, 1, 0.8)]
    return close[0] if close else None


def _preparation(name: str, root: Path) -> str:
    # Not `tfds build`, which does not start without Apache Beam (tfds 4.9.10).
    return (
        "TFDS needs TensorFlow for that, so do it once in an environment of its own: python -m "
        "venv tfds-env && tfds-env/bin/pip install tensorflow tensorflow-datasets array_record "
        'importlib_resources && tfds-env/bin/python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{root}', file_format='array_record')"
        '.download_and_prepare()"'
    )


def _open(directory: Path, name: str, root: Path) -> Any:
    """Returns TFDS's builder of a prepared version that can be read and has the right features."""
    try:
        builder = tfds.builder_from_directory(directory)
        formats = {file_format.value for file_format in builder.info.available_file_formats()}
        features = dict(builder.info.features.items())
    except Exception as error:  # TFDS raises whatever the damaged description leads to
        raise _damaged(directory, name, error) from error
    if "array_record" not in formats:
        way = (
            f"jaxcnn prepare {name} --data_dir=OTHER"
            if name in prepare.NAMES
            else f"prepare it in another directory: {_preparation(name, root / 'other')}"
        )
        raise UserError(
            f"{directory} holds {'/'.join(sorted(formats))} files, which cannot be read without "
            f"TensorFlow (array_record can): delete it, or use another data directory, and {way}"
        )
    _check_features(name, features)
    return builder


def _check_features(name: str, features: dict[str, Any]) -> None:
    """Raises UserError unless a data set has an image, as is needed, and one label for each."""
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UserError(
            f"{name} cannot be used: an image-classification data set has the features 'image' and "
            f"'label', this one has {', '.join(map(repr, features))}"
        )
    if image.np_dtype != np.uint8 or image.shape[-1] not in _MODES:
        raise UserError(
            f"{name} cannot be used: its images are {image.np_dtype} {image.shape}, not uint8 with "
            "1 or 3 channels"
        )


def _damaged(directory: Path | str, name: str, error: Exception) -> UserError:
    return UserError(
        f"{directory} is damaged ({type(error).__name__}): delete it and prepare {name} again"
    )


def _is_modified(directory: Path) -> bool:
    """Tells what `prepare` noted; a data set that TFDS itself prepared was checked by TFDS."""
    try:
        return bool(json.loads((directory / SOURCE_FILE).read_text(encoding="utf-8"))["modified"])
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory / SOURCE_FILE} is damaged: delete {directory}") from error


def _decode(builder: Any, split: str) -> Split:
    """Returns a whole split; Pillow decodes, since TFDS would use OpenCV where it is installed."""
    name, channels = builder.info.name, builder.info.features["image"].shape[-1]
    records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    labels = np.empty(len(records), np.int32)
    images = np.empty(0, np.uint8)
    with Meter(f"decoding {name} {split} (once)", len(records), "images") as meter:
        for index, record in enumerate(_examples(builder, records)):
            try:
                with Image.open(io.BytesIO(record["image"])) as file:
                    image = np.asarray(file.convert(_MODES[channels]))
            except (OSError, UnidentifiedImageError) as error:
                raise UserError(f"image {index} of {name} {split} is damaged: {error}") from error
            # Pillow gives [H, W] for a single channel.
            image = image.reshape(*image.shape[:2], channels)
            # Only now is the size known: a description may leave height and width open.
            if index == 0:
                images = np.empty((len(records), *image.shape), np.uint8)
            if image.shape != images.shape[1:]:
                raise UserError(
                    f"{name} cannot be used: its images have several sizes, among them "
                    f"{images.shape[1:3]} and {image.shape[:2]}; allowed are data sets of one size"
                )
            images[index], labels[index] = image, record["label"]
            meter.advance()
    if np.any(labels < 0):  # so TFDS marks what has no label, as in stl10's split `unlabelled`
        raise UserError(f"{name} {split} cannot be used: some of its images have no label")
    return Split(images, labels)


def _examples(builder: Any, records: Any) -> Iterator[dict[str, Any]]:
    for start in range(0, len(records), _CHUNK):
        try:
            chunk = records.__getitems__(range(start, min(start + _CHUNK, len(records))))
        except Exception as error:  # array_record raises whatever the damage leads to
            raise _damaged(builder.data_dir, builder.info.name, error) from error
        yield from chunk
