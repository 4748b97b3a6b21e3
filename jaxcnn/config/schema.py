"""Every hyper-parameter once: its type, default, what is allowed, its unit and its reason.

One declaration of a field gives the default of the configuration that users edit, its check, its
line of `--help` and the typed value that the program reads (`config.settings.Settings`).
"""

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ml_collections import config_dict

from jaxcnn.config import compat, recipe
from jaxcnn.config.declare import (
    ANY,
    FRACTIONS,
    POSITIVE,
    TEXT,
    Setting,
    at_least,
    between,
    one_of,
    setting,
    within,
)
from jaxcnn.errors import UserError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetConfig(recipe.FolderRecipe):
    """Which data: keyword arguments of `data.load`."""

    name: str = setting("cifar10", TEXT, "digits (embedded), folder (your own), or a TFDS set")
    data_dir: str = setting("", ANY, "TFDS directory (empty: $TFDS_DATA_DIR, TFDS's) or folder")
    train_split: str = setting("train", TEXT, "TFDS split to train on, such as train[:45000]")
    eval_split: str = setting("test", TEXT, "likewise, to evaluate on; auto: validation or test")


@dataclass(frozen=True)
class AugmentConfig(recipe.AugmentRecipe):
    """What is done to training images: keyword arguments of `create_augmentation`."""

    crop_padding: int = setting(
        4, at_least(0), "pixels of padding before a random crop (He et al. 2015, sec. 4.2)"
    )
    flip: bool | None = setting(
        bool,
        ANY,
        "mirror half of the images, left to right; unset: unless a mirrored image is of another "
        "class, as with digits and letters",
        unset="the data set's own",
    )


@dataclass(frozen=True)
class ModelConfig(recipe.ModelRecipe):
    """The network: arguments of `models.create`; an option that is unset is the network's own."""

    name: str = setting("mobilenet", TEXT, "a network, see jaxcnn.models")
    dtype: str = setting(
        "auto",
        one_of("auto", "float32", "bfloat16"),
        "compute dtype; auto: bfloat16 on GPU and TPU, float32 on the CPU",
    )
    batch_norm: str = setting(
        "global",
        one_of("global", "local"),
        "statistics over the whole batch, or over each device's part, which needs no exchange "
        "but depends on the number of devices",
    )
    plain: bool | None = setting(bool, ANY, "ResNet without shortcuts")
    width: float | None = setting(float, within(0.01, 100), "MobileNet, speedrun: width multiplier")
    growth_rate: int | None = setting(
        int, within(1, 10_000), "DenseNet: new channels of each layer"
    )
    bn_size: int | None = setting(
        int, within(0, 1000), "DenseNet: bottleneck channels over growth_rate"
    )
    drop_rate: float | None = setting(
        float, between(0, 1), "DenseNet: dropout after each 3x3 convolution"
    )


@dataclass(frozen=True)
class OptimConfig(recipe.OptimRecipe):
    """The optimizer and its learning-rate schedule, see `create_optimizer`."""

    name: str = setting("sgd", one_of("sgd", "adamw", "muon"), "muon: sgd but for convolutions")
    peak_lr: float = setting(0.1, POSITIVE, "learning rate after warm-up; not scaled by batch size")
    momentum: float = setting(0.9, between(0, 1), "momentum; first-moment decay of AdamW")
    nesterov: bool = setting(True, ANY, "Nesterov's momentum (not AdamW)")
    second_moment: float = setting(0.999, between(0, 1), "second-moment decay (AdamW only)")
    weight_decay: float = setting(
        5e-4, at_least(0), "of kernels only; an L2 gradient, decoupled for adamw"
    )
    clip_norm: float = setting(0.0, at_least(0), "largest global norm of the gradient; 0: any")
    schedule: str = setting("cosine", one_of(*recipe.SCHEDULES), "after warm-up")
    warmup_epochs: float = setting(1.0, at_least(0), "epochs of linear rise")
    milestones: tuple[float, ...] = setting(
        (0.5, 0.75), FRACTIONS, "multistep: fractions of the training at which the rate falls"
    )
    decay_factor: float = setting(0.1, between(0, 1), "multistep: the rate is multiplied by this")


@dataclass(frozen=True)
class TrainConfig(recipe.TrainRecipe):
    """The training loop."""

    epochs: int = setting(30, at_least(1), "passes over the training split")
    batch_size: int = setting(128, at_least(1), "images of a step, over all devices")
    eval_batch_size: int = setting(512, at_least(1), "images of an evaluation step")
    grad_accum_steps: int = setting(
        1, at_least(1), "micro-batches of a step, one after another: less memory, more time"
    )
    remat: bool = setting(
        False, ANY, "recompute each block in the backward pass: less memory, more time"
    )
    shard_optimizer: bool = setting(
        False, ANY, "each device keeps a part of the optimizer's state (ZeRO, stage 1)"
    )
    steps_per_call: int = setting(
        0, within(0, 10_000), "steps of one compiled call; 0: what suits the platform"
    )
    data_gigabytes: float = setting(
        2.0,
        at_least(0),
        "the data set lies on each device if it takes at most this (GB of 1e9 bytes), else it "
        "is streamed from host memory",
    )
    label_smoothing: float = setting(
        0.1, between(0, 1), "probability spread over all classes (arXiv:1512.00567, sec. 7)"
    )
    ema_decay: float = setting(
        0.0, between(0, 1), "decay of the averaged weights that are evaluated; 0: none"
    )
    log_every_steps: int = setting(
        10,
        at_least(1),
        "steps between two reports of the metrics, for which the host waits for the device",
    )
    checkpoint_minutes: float = setting(10.0, POSITIVE, "minutes between two checkpoints, at most")
    keep_checkpoints: int = setting(2, at_least(1), "newest checkpoints that are kept")
    plots: bool = setting(True, ANY, "draw pictures into the run folder's plots/")
    tensorboard: bool = setting(
        False, ANY, "write TensorBoard's event files; needs the extra tensorboard"
    )
    on_nonfinite: str = setting(
        "stop",
        one_of("stop", "skip"),
        "what a step with an infinite or undefined loss or gradient does: end the run with the "
        "state before it saved, or change nothing and count as skipped",
    )
    max_nonfinite: int = setting(
        10, at_least(1), "skip: after this number of such steps in a row the run ends anyway"
    )
    deterministic: bool = setting(
        False, ANY, "the same bytes from every run on a GPU too, slower; a CPU always gives them"
    )


@dataclass(frozen=True)
class Config:
    """All values that a user may set."""

    seed: int = setting(
        0, between(0, 2**32), "seed of initial values, batch order, augmentation and dropout"
    )
    dataset: DatasetConfig = DatasetConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()


# Data sets, without a TFDS configuration, whose classes do not survive mirroring: a mirrored 2 is
# not a 5.
_NOT_MIRRORED = ("digits", "mnist", "mnist_corrupted", "kmnist", "svhn_cropped", "emnist")


class _Section(config_dict.ConfigDict):
    """A section in which a renamed key can also be set under its old name, with a warning."""

    def __init__(self, name: str = "") -> None:
        """Creates an empty section called `name`."""
        super().__init__()
        object.__setattr__(self, "_name", name)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._current(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(self._current(key), value)

    def _current(self, key: Any) -> Any:
        dotted = f"{self._name}.{key}"
        if dotted not in compat.RENAMED:
            return key
        current = compat.RENAMED[dotted]
        _logger.warning("%s is now called %s", dotted, current)
        return current.rpartition(".")[2]


def default_config() -> config_dict.ConfigDict:
    """Returns all sections with their defaults, locked: an unknown key raises AttributeError."""
    config = config_dict.ConfigDict()
    for key, value in walk():
        section, _, last = key.rpartition(".")
        if section and section not in config:
            config[section] = _Section(section)
        target = config[section] if section else config
        unset = value.default is None
        target[last] = config_dict.placeholder(value.kind) if unset else value.default
    return config.lock()


def use_dataset(config: config_dict.ConfigDict, name: str) -> config_dict.ConfigDict:
    """Sets the data set to `name`, with the values that suit a small one; returns `config`.

    What the classes of a data set forbid needs no call: see `augment.flip`.
    """
    config.dataset.name = name
    if name == "folder":
        config.dataset.eval_split = "auto"
    if name == "digits":  # 1,437 images that fill the frame: many short epochs, a gentler crop
        config.augment.crop_padding = 2
        config.train.epochs = 20
        config.train.batch_size = 64
        config.optim.warmup_epochs = 2.0
    return config


def is_mirrored(name: str) -> bool:
    """Whether images of the data set `NAME` or `NAME/CONFIG` are mirrored by default."""
    return name.partition("/")[0] not in _NOT_MIRRORED


def walk() -> Iterator[tuple[str, Setting]]:
    """Yields every dotted key, such as `optim.peak_lr`, with its declaration."""
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(field.default):
            for inner in dataclasses.fields(field.default):
                yield f"{field.name}.{inner.name}", inner.metadata["setting"]
        else:
            yield field.name, field.metadata["setting"]


def validate(config: config_dict.ConfigDict) -> None:
    """Raises UserError for a missing or unknown key, and for a value that is not allowed."""
    known = dict(walk())
    given = set(_leaves(config))
    if given != set(known):
        odd = ", ".join(sorted(given ^ set(known)))
        raise UserError(
            f"missing or unknown in the configuration: {odd}; start from default_config()"
        )
    wrong = []
    for key, declared in known.items():
        value = _get(config, key)
        if value is None and declared.default is None:
            continue
        if not isinstance(value, declared.kind) or not declared.check.accepts(value):
            wrong.append(f"{key}={value!r} is not allowed: {describe(key)}")
    if wrong:
        raise UserError("; ".join(wrong))


def describe(key: str) -> str:
    """Returns the type, the limits, the default and the meaning of a dotted key, in one line."""
    declared = dict(walk())[key]
    default = declared.unset if declared.default is None else repr(declared.default)
    is_open = declared.check is ANY or declared.check is TEXT
    limits = "" if is_open else f", {declared.check.words}"
    return f"{declared.kind.__name__}{limits}; default {default}: {declared.help}"


def to_dict(config: config_dict.ConfigDict) -> dict[str, Any]:
    """Returns plain nested dicts with tuples as lists, as JSON would give them back."""
    tree: dict[str, Any] = {}
    for key, _ in walk():
        section, _, last = key.rpartition(".")
        value = _get(config, key)
        target = tree.setdefault(section, {}) if section else tree
        target[last] = list(value) if isinstance(value, tuple) else value
    return tree


def put(config: config_dict.ConfigDict, key: str, value: Any) -> None:
    """Sets a dotted key, such as `optim.peak_lr`."""
    *sections, last = key.split(".")
    for section in sections:
        config = config[section]
    config[last] = value


def _get(config: config_dict.ConfigDict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _leaves(config: config_dict.ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, config_dict.ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key
