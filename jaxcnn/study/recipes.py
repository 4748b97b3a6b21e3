"""The recipes of the study: what each network is trained with, by budget.

A budget decides the data, the number of epochs, which is the same for all networks, and the seeds.
What is not here is the default of `config.schema`. A residual and a plain network have the same
recipe: what tells them apart is the shortcut alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ml_collections import config_dict

from jaxcnn.config import default_config, schema, use_dataset
from jaxcnn.errors import UserError


class Budget(NamedTuple):
    """What a budget buys.

    Attributes:
        name: Of the budget.
        dataset: Name of the data set.
        epochs: Of every training.
        seeds: Networks in the order in which they are trained, and of each the number of trainings,
            with seeds from 0 on.
        description: How long that takes, and where.
        values: Of all networks, by dotted key.
        depths: Layers of the untrained networks whose gradients the report compares.
    """

    name: str
    dataset: str
    epochs: int
    seeds: dict[str, int]
    description: str
    values: dict[str, Any]
    depths: tuple[int, ...] = (20, 56)

    @property
    def folder(self) -> str:
        """Name of the folder of its results."""
        usual = self.epochs == BUDGETS[self.name].epochs
        return self.name if usual else f"{self.name}-{self.epochs}-epochs"


NETWORKS: dict[str, dict[str, Any]] = {
    "lenet": {"optim.peak_lr": 0.05, "train.label_smoothing": 0.0},
    "mobilenet": {"optim.peak_lr": 0.2, "train.label_smoothing": 0.0},
    "resnet20": {"optim.peak_lr": 0.1},
    "plain20": {"optim.peak_lr": 0.1},
    "resnet56": {"optim.peak_lr": 0.1},
    "plain56": {"optim.peak_lr": 0.1},
    "resnet18": {"optim.peak_lr": 0.1},
    "densenet40_k12": {"optim.peak_lr": 0.1},
}
"""Values of each network, by dotted key, in the order in which they are trained."""

_FIVE = ("lenet", "mobilenet", "resnet20", "plain20", "densenet40_k12")

# Tens of epochs: gentle crops, flips that show each image from both sides in turn, and a rate that
# rises for a fifth of the training and falls to 0 (Jordan 2024, arXiv:2404.00498, sec. 3.1 and
# 3.6).
_SHORT = {
    "optim.schedule": "triangular",
    "augment.crop_padding": 2,
    "augment.crop_mode": "reflect",
    "augment.flip_mode": "alternating",
}

# Hundreds of epochs: the crops of He et al. 2015 (arXiv:1512.03385, sec. 4.2), and cosine
# annealing, which needs no milestones that suit one network better than another.
_LONG = {"optim.warmup_epochs": 5.0}

BUDGETS = {
    # Most of five minutes is compiling, so that there are no pictures of single runs.
    "minutes": Budget(
        "minutes",
        "digits",
        epochs=2,
        seeds=dict.fromkeys(_FIVE, 1),
        description="under five minutes of two CPU cores, on data that is part of the installation",
        values={"optim.warmup_epochs": 0.5, "train.batch_size": 32, "train.plots": False},
        depths=(20,),
    ),
    "hour": Budget(
        "hour",
        "cifar10",
        epochs=3,
        seeds=dict.fromkeys(_FIVE, 1),
        description="about an hour of two CPU cores, estimated",
        values={**_SHORT, "train.label_smoothing": 0.0},
    ),
    # Three seeds where a training takes minutes, one where it takes hours.
    "night": Budget(
        "night",
        "cifar10",
        epochs=20,
        seeds={
            name: 3 if name in ("lenet", "mobilenet", "resnet20", "plain20") else 1
            for name in NETWORKS
        },
        description="about twelve hours of two CPU cores, estimated",
        values=_SHORT,
    ),
    # DenseNet's length (Huang et al. 2017, arXiv:1608.06993, sec. 4.2), the longest of the four.
    "full": Budget(
        "full",
        "cifar10",
        epochs=300,
        seeds=dict.fromkeys(NETWORKS, 3),
        description="the published lengths, for a GPU",
        values=_LONG,
    ),
}


def chosen(name: str, networks: Sequence[str] = (), epochs: int | None = None) -> Budget:
    """Returns a budget, or a part of one.

    Args:
        name: A key of `BUDGETS`.
        networks: The networks to train, of `NETWORKS`; none for those of the budget. One that the
            budget leaves out is trained once.
        epochs: Of every training; None for those of the budget.

    Raises:
        UserError: For a network that the study does not have, or less than an epoch.
    """
    budget = BUDGETS[name]
    if unknown := [network for network in networks if network not in NETWORKS]:
        raise UserError(f"--networks={unknown[0]}: the study has {', '.join(NETWORKS)}")
    if epochs is not None and epochs < 1:
        raise UserError(f"--epochs={epochs}: at least 1")
    if networks:
        named = [network for network in NETWORKS if network in networks]
        budget = budget._replace(seeds={n: budget.seeds.get(n, 1) for n in named})
    return budget if epochs is None else budget._replace(epochs=epochs)


def recipe(budget: Budget, network: str) -> dict[str, Any]:
    """Returns the values by dotted key that differ from the defaults for this data set."""
    common = {"model.name": network, "train.epochs": budget.epochs}
    return {**common, **budget.values, **NETWORKS[network]}


def config(budget: Budget, network: str, seed: int) -> config_dict.ConfigDict:
    """Returns the configuration of one training of the study."""
    made = use_dataset(default_config(), budget.dataset)
    for key, value in recipe(budget, network).items():
        schema.put(made, key, value)
    made.seed = seed
    made.train.plots &= seed == 0  # of each network at most one run has pictures
    return made
