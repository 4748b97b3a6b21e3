"""The settings of a run: everything decided, in one frozen object that the program passes on.

`Settings.resolve` makes it from a user's configuration and the data; config.json is its JSON form.
Nothing in it is "auto" or left to the network, and the facts of the data that a trained network
depends on are part of it: whatever reads a run folder needs config.json alone.
"""

import dataclasses
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import config_dict

from jaxcnn import models
from jaxcnn.config import class_weights, compat, schema, stored
from jaxcnn.data import Dataset, batches
from jaxcnn.data.augment import PixelStats, pixel_stats

_logger = logging.getLogger(__name__)

# Steps of one compiled call, by platform, where the configuration leaves it open. On the CPU a call
# costs little beside a step; on a GPU or TPU a small network's step is shorter than the time that
# Python needs to send the next one.
STEPS_PER_CALL = {"cpu": 1, "gpu": 8, "tpu": 8}

# Training images from which on steps by oneDNN gain more than the start loses, where the
# configuration leaves it open. Not by the number of epochs, which may rise: a run would end with
# other bits than it began.
ONEDNN_FROM = 10_000


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What a run's data set turned out to be; part of the section `dataset` of config.json.

    Attributes:
        fingerprint: Identifies the data set's content.
        class_names: A name for each class.
        image_shape: (H, W, C).
        train_examples: Images of the training split.
        eval_examples: Images of the evaluation split.
        mean: Of each channel of the training split, in units of full scale (0..1).
        std: Standard deviation of each channel.
    """

    fingerprint: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train_examples: int
    eval_examples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(schema.Config):
    """A configuration in which everything is decided, with the facts of its data."""

    facts: DataFacts

    @classmethod
    def resolve(cls, config: config_dict.ConfigDict, dataset: Dataset) -> "Settings":
        """Returns the settings for a configuration and its data.

        Raises:
            UserError: If a value is not allowed, or the network is unknown or lacks an option.
        """
        schema.validate(config)
        tree = schema.to_dict(config)
        stats = pixel_stats(dataset.train.images)
        tree["dataset"] |= {
            "fingerprint": dataset.fingerprint,
            "class_names": dataset.class_names,
            "image_shape": dataset.train.images.shape[1:],
            "train_examples": len(dataset.train.labels),
            "eval_examples": len(dataset.eval.labels),
            "mean": stats.mean,
            "std": stats.std,
        }
        if config.dataset.eval_split == "auto":
            tree["dataset"]["eval_split"] = dataset.eval_split
        tree["train"]["class_weights"] = class_weights.decide(config.train.class_weights, dataset)
        if config.augment.flip is None:
            tree["augment"]["flip"] = schema.is_mirrored(config.dataset.name)
        if config.optim.warmup_epochs > config.train.epochs:
            _logger.warning(
                "optim.warmup_epochs=%s is longer than the training: shortened to %s",
                *(config.optim.warmup_epochs, float(config.train.epochs)),
            )
        platform = jax.default_backend()
        if config.model.dtype == "auto":
            tree["model"]["dtype"] = "float32" if platform == "cpu" else "bfloat16"
        if config.train.steps_per_call == 0:
            tree["train"]["steps_per_call"] = STEPS_PER_CALL.get(platform, 1)
        model = _create_model(tree["model"], tree["train"]["remat"])
        for option in models.options(config.model.name):
            tree["model"][option] = getattr(model, option)
        if config.train.onednn is None:
            is_long = len(dataset.train.labels) >= ONEDNN_FROM
            tree["train"]["onednn"] = is_long and model.gains_by_onednn
        return cls.from_json(tree)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Settings":
        """Returns the settings that a config.json of this or an older version holds.

        Raises:
            ValueError: If it is not what a run writes, naming the key.
        """
        tree = compat.upgrade(content)
        facts = {field.name for field in dataclasses.fields(DataFacts)}
        section = tree.get("dataset", {})
        if not isinstance(section, dict):
            raise ValueError("dataset is no section")
        found = {key: section.pop(key) for key in facts & set(section)}
        parts: dict[str, Any] = {"facts": _read(DataFacts, found, "dataset.")}
        stored.check_facts(parts["facts"])
        for field in dataclasses.fields(schema.Config):
            if field.name not in tree:
                raise ValueError(f"{field.name} is missing")
            kind, value = type(field.default), tree[field.name]
            is_section = dataclasses.is_dataclass(kind)
            parts[field.name] = _read(kind, value, f"{field.name}.") if is_section else value
        if unknown := set(tree) - set(parts):
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        settings = cls(**parts)
        for key, declared in schema.walk():
            stored.check_value(key, declared, functools.reduce(getattr, key.split("."), settings))
        return settings

    def to_json(self) -> dict[str, Any]:
        """Returns the content of config.json."""
        tree = dataclasses.asdict(self)
        tree["dataset"] |= tree.pop("facts")
        return {key: _plain(value) for key, value in tree.items()}

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return batches.steps_per_epoch(self.facts.train_examples, self.train.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.train.epochs * self.steps_per_epoch

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the indices of a call: [steps, micro-batches, images], without axes of 1."""
        train = self.train
        leading = [n for n in (train.steps_per_call, train.grad_accum_steps) if n > 1]
        return (*leading, train.batch_size // train.grad_accum_steps)

    @property
    def max_nonfinite(self) -> int:
        """Steps in a row with a loss or gradient that is not finite, after which the run ends.

        1 for "stop". A whole epoch of skipped steps has no mean loss, so it always ends the run.
        """
        if self.train.on_nonfinite == "stop":
            return 1
        return min(self.train.max_nonfinite, self.steps_per_epoch)

    @property
    def local_norms(self) -> bool:
        """Whether batch norm sees each device's part of a batch, instead of the whole."""
        return self.model.batch_norm == "local"

    @property
    def data_bytes(self) -> float:
        """A data set of more bytes is streamed from host memory."""
        return self.train.data_gigabytes * 1e9

    @property
    def pixel_stats(self) -> PixelStats:
        """Mean and standard deviation by which images are normalized."""
        return PixelStats(self.facts.mean, self.facts.std)

    def create_model(self) -> nn.Module:
        """Returns the network, without parameters."""
        return _create_model(
            dataclasses.asdict(self.model),
            self.train.remat,
            num_classes=len(self.facts.class_names),
            dtype=jnp.dtype(self.model.dtype),
        )


def check_network(config: config_dict.ConfigDict) -> None:
    """Raises UserError if the network is unknown or does not have an option; needs no data."""
    _create_model(schema.to_dict(config)["model"], config.train.remat)


def _create_model(section: dict[str, Any], remat: bool, **fields: Any) -> nn.Module:
    """Returns the network of the section `model`, whose dtype may be open yet."""
    options = {
        key: value
        for key, value in section.items()
        # The norms' statistics are not a field of the network, see `Settings.local_norms`.
        if value is not None and key not in ("name", "dtype", "batch_norm", "bn_momentum")
    }
    fields |= {"remat": remat, "norm_momentum": section["bn_momentum"]}
    return models.create(section["name"], **fields, **options)


def _read(kind: Any, section: Any, prefix: str) -> Any:
    """Returns a section's dataclass; ValueError names a key that is missing or unknown."""
    if not isinstance(section, dict):
        raise ValueError(f"{prefix.removesuffix('.')} is no section")
    known = {field.name for field in dataclasses.fields(kind)}
    if known != set(section):
        word = "is missing" if known - set(section) else "is unknown"
        keys = sorted(known - set(section)) or sorted(set(section) - known)
        raise ValueError(f"{prefix}{keys[0]} {word}")
    return kind(**{key: _frozen(value) for key, value in section.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Returns `value` as JSON gives it back: tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
