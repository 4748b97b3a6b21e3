"""Every hyper-parameter once: its default, what is allowed, its unit and its reason.

A section is the keyword arguments of one function: `dataset` of `data.load`, `augment` of
`create_augment`, `model` of `models.create`, `optim` of `create_optimizer`; `train` is the loop's
own.
Files in configs/ start from `default_config` and override a few values.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import config_dict

from jaxcnn.errors import UserError


class Check(NamedTuple):
    """What a value must be: a test and the same in words."""

    accepts: Callable[[Any], bool]
    words: str


class Field(NamedTuple):
    """One hyper-parameter; a default that is a type means "unset", with values of that type."""

    default: Any
    check: Check
    help: str


def _at_least(low: float) -> Check:
    return Check(lambda v: low <= v < math.inf, f"at least {low}")


def _between(low: float, high: float) -> Check:
    """From `low` on, below `high`."""
    return Check(lambda v: low <= v < high, f"at least {low} and below {high}")


def _one_of(*names: str) -> Check:
    return Check(lambda v: v in names, "one of " + ", ".join(names))


_ANY = Check(lambda v: True, "any")
_TEXT = Check(bool, "not empty")
_POSITIVE = Check(lambda v: 0 < v < math.inf, "above 0")
_FRACTIONS = Check(
    lambda v: all(isinstance(x, float) and 0 < x < 1 for x in v) and list(v) == sorted(set(v)),
    "fractions between 0 and 1, rising, such as (0.5,0.75)",
)

FIELDS: dict[str, dict[str, Field]] = {
    "": {
        "seed": Field(
            0, _between(0, 2**32), "seed of initial values, batch order, augmentation and dropout"
        ),
    },
    "dataset": {
        "name": Field("cifar10", _TEXT, "digits (embedded), cifar10, cifar100 or another TFDS set"),
        "data_dir": Field("", _ANY, "TFDS directory; empty: $TFDS_DATA_DIR, then TFDS's default"),
        "train_split": Field("train", _TEXT, "TFDS split to train on, such as train[:45000]"),
        "eval_split": Field("test", _TEXT, "TFDS split to evaluate on, such as train[45000:]"),
    },
    "augment": {
        "crop_padding": Field(
            4, _at_least(0), "pixels of padding before a random crop (He et al. 2015, sec. 4.2)"
        ),
        "flip": Field(True, _ANY, "mirror half of the images, left to right"),
    },
    "model": {
        "name": Field("mobilenet", _TEXT, "a network, see jaxcnn.models"),
        "dtype": Field(
            "auto",
            _one_of("auto", "float32", "bfloat16"),
            "compute dtype; auto: bfloat16 on GPU and TPU, float32 on the CPU",
        ),
        "batch_norm": Field(
            "global",
            _one_of("global", "local"),
            "statistics over the whole batch, or over each device's part, which needs no exchange "
            "but depends on the number of devices",
        ),
        "plain": Field(bool, _ANY, "ResNet without shortcuts"),
        "width": Field(float, _POSITIVE, "MobileNet width multiplier"),
        "growth_rate": Field(int, _at_least(1), "DenseNet: new channels of each layer"),
        "bn_size": Field(int, _at_least(0), "DenseNet: bottleneck channels over growth_rate"),
        "drop_rate": Field(float, _between(0, 1), "DenseNet: dropout after each 3x3 convolution"),
    },
    "optim": {
        "name": Field("sgd", _one_of("sgd", "adamw"), "optimizer"),
        "peak_lr": Field(0.1, _POSITIVE, "learning rate after warm-up; not scaled by batch size"),
        "momentum": Field(0.9, _between(0, 1), "momentum of SGD, first-moment decay of AdamW"),
        "nesterov": Field(True, _ANY, "Nesterov's momentum (SGD only)"),
        "second_moment": Field(0.999, _between(0, 1), "second-moment decay (AdamW only)"),
        "weight_decay": Field(
            5e-4, _at_least(0), "of kernels only; an L2 gradient for sgd, decoupled for adamw"
        ),
        "clip_norm": Field(0.0, _at_least(0), "largest global norm of the gradient; 0: any"),
        "schedule": Field("cosine", _one_of("cosine", "multistep", "constant"), "after warm-up"),
        "warmup_epochs": Field(1.0, _at_least(0), "epochs of linear rise"),
        "milestones": Field(
            (0.5, 0.75), _FRACTIONS, "multistep: fractions of the training at which the rate falls"
        ),
        "decay_factor": Field(0.1, _between(0, 1), "multistep: the rate is multiplied by this"),
    },
    "train": {
        "epochs": Field(30, _at_least(1), "passes over the training split"),
        "batch_size": Field(128, _at_least(1), "images of a step, over all devices"),
        "eval_batch_size": Field(512, _at_least(1), "images of an evaluation step"),
        "grad_accum_steps": Field(
            1, _at_least(1), "micro-batches of a step, one after another: less memory, more time"
        ),
        "remat": Field(
            False, _ANY, "recompute each block in the backward pass: less memory, more time"
        ),
        "shard_optimizer": Field(
            False, _ANY, "each device keeps a part of the optimizer's state (ZeRO, stage 1)"
        ),
        "steps_per_call": Field(
            0, _at_least(0), "steps of one compiled call; 0: what suits the platform"
        ),
        "data_gigabytes": Field(
            2.0,
            _at_least(0),
            "the data set lies on each device if it takes at most this (GB of 1e9 bytes), else it "
            "is streamed from host memory",
        ),
        "label_smoothing": Field(
            0.1, _between(0, 1), "probability spread over all classes (arXiv:1512.00567, sec. 7)"
        ),
        "ema_decay": Field(
            0.0, _between(0, 1), "decay of the averaged weights that are evaluated; 0: none"
        ),
        "log_every_steps": Field(
            10, _at_least(1), "steps between two looks at the device's metrics"
        ),
        "checkpoint_minutes": Field(10.0, _POSITIVE, "at most so long between two checkpoints"),
        "keep_checkpoints": Field(2, _at_least(1), "newest checkpoints that are kept"),
        "plots": Field(True, _ANY, "draw pictures into the run folder's plots/"),
        "tensorboard": Field(
            False, _ANY, "write TensorBoard's event files; needs the extra tensorboard"
        ),
        "on_nonfinite": Field(
            "stop",
            _one_of("stop", "skip"),
            "what a step with an infinite or undefined loss or gradient does: end the run with the "
            "state before it saved, or change nothing and count as skipped",
        ),
        "max_nonfinite": Field(
            10, _at_least(1), "skip: so many such steps in a row end the run all the same"
        ),
        "deterministic": Field(
            False,
            _ANY,
            "the same bytes from every run on a GPU too, slower; a CPU always gives them",
        ),
    },
}

# Sets whose classes do not survive mirroring (a 2 is no 5), with a gentler crop for digits, which
# fill the frame.
_NOT_MIRRORED = ("digits", "mnist", "kmnist", "svhn_cropped", "emnist")


def default_config() -> config_dict.ConfigDict:
    """Returns all sections with their defaults, locked: an unknown key raises AttributeError."""
    config = config_dict.ConfigDict()
    for section, rows in FIELDS.items():
        target = config
        if section:
            config[section] = target = config_dict.ConfigDict()
        for key, field in rows.items():
            unset = isinstance(field.default, type)
            target[key] = config_dict.placeholder(field.default) if unset else field.default
    return config.lock()


def use_dataset(config: config_dict.ConfigDict, name: str) -> config_dict.ConfigDict:
    """Puts `config` on the data set `name`, with the few values that depend on it."""
    config.dataset.name = name
    if name in _NOT_MIRRORED:
        config.augment.flip = False
    if name == "digits":  # 1,437 images: many short epochs
        config.augment.crop_padding = 2
        config.train.epochs = 20
        config.train.batch_size = 64
        config.optim.warmup_epochs = 2.0
    return config


def walk() -> Iterator[tuple[str, Field]]:
    """Yields every dotted key, such as `optim.peak_lr`, with its field."""
    for section, rows in FIELDS.items():
        for key, field in rows.items():
            yield (f"{section}.{key}" if section else key), field


def validate(config: config_dict.ConfigDict) -> None:
    """Raises UserError for a key that is missing or unknown, and for a value out of range."""
    known = dict(walk())
    given = set(_leaves(config))
    if given != set(known):
        odd = ", ".join(sorted(given ^ set(known)))
        raise UserError(
            f"missing or unknown in the configuration: {odd}; start from default_config()"
        )
    for key, field in known.items():
        value = _get(config, key)
        kind = field.default if isinstance(field.default, type) else type(field.default)
        if value is None and isinstance(field.default, type):
            continue
        if not isinstance(value, kind) or not field.check.accepts(value):
            raise UserError(f"{key}={value!r} is not allowed: {describe(key)}")
    if config.optim.warmup_epochs > config.train.epochs:
        raise UserError(
            f"optim.warmup_epochs={config.optim.warmup_epochs} is longer than the training: "
            f"at most train.epochs={config.train.epochs}"
        )


def describe(key: str) -> str:
    """Returns the kind of value, the default and the meaning of a dotted key, in one line."""
    field = dict(walk())[key]
    unset = isinstance(field.default, type)
    kind = (field.default if unset else type(field.default)).__name__
    default = "the network's own" if unset else repr(field.default)
    limits = "" if field.check is _ANY or field.check is _TEXT else f", {field.check.words}"
    return f"{kind}{limits}; default {default}: {field.help}"


def to_dict(config: config_dict.ConfigDict) -> dict[str, Any]:
    """Returns plain nested dicts with tuples as lists, as JSON would give them back."""
    tree: dict[str, Any] = {}
    for key, _ in walk():
        *sections, last = key.split(".")
        value = _get(config, key)
        target = tree.setdefault(sections[0], {}) if sections else tree
        target[last] = list(value) if isinstance(value, tuple) else value
    return tree


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
