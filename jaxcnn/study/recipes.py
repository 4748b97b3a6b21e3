"""The recipes of the study: what each network is trained with, by budget.

A budget decides the data, the number of epochs, which is the same for all networks, and the seeds.
What is not here is the default of `config.schema`. A residual and a plain network have the same
recipe: what tells them apart is the shortcut alone.
"""

from typing import Any, NamedTuple

from ml_collections import config_dict

from jaxcnn.config import default_config, schema, use_dataset


class Budget(NamedTuple):
    """What a budget buys.

    Attributes:
        dataset: Name of the data set.
        epochs: Of every training.
        seeds: Trainings of each network, with seeds from 0 on.
        description: How long that takes, and where.
        values: Of all networks, by dotted key.
        depths: Layers of the untrained networks whose gradients the report compares.
    """

    dataset: str
    epochs: int
    seeds: int
    description: str
    values: dict[str, Any]
    depths: tuple[int, ...] = (20, 56)


# A few epochs: gentle crops, and flips that show each image from both sides in turn
# (Jordan 2024, arXiv:2404.00498, sec. 3.1 and 3.6).
_SHORT = {
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
        "digits",
        epochs=2,
        seeds=1,
        description="under five minutes of two CPU cores, on data that is part of the installation",
        values={"optim.warmup_epochs": 0.5, "train.batch_size": 32, "train.plots": False},
        depths=(20,),
    ),
    "hour": Budget(
        "cifar10",
        epochs=3,
        seeds=1,
        description="about an hour of two CPU cores, estimated",
        values={**_SHORT, "optim.warmup_epochs": 0.6, "train.label_smoothing": 0.0},
    ),
    "night": Budget(
        "cifar10",
        epochs=12,
        seeds=3,
        description="about ten hours of two CPU cores, estimated",
        values={**_SHORT, "optim.warmup_epochs": 2.4},
    ),
    # DenseNet's length (Huang et al. 2017, arXiv:1608.06993, sec. 4.2), the longest of the four.
    "full": Budget(
        "cifar10", epochs=300, seeds=3, description="the published lengths, for a GPU", values=_LONG
    ),
}

NETWORKS: dict[str, dict[str, Any]] = {
    "lenet": {"optim.peak_lr": 0.05, "train.label_smoothing": 0.0},
    "mobilenet": {"optim.peak_lr": 0.2, "optim.weight_decay": 1e-4},
    "resnet20": {"optim.peak_lr": 0.1},
    "plain20": {"optim.peak_lr": 0.1},
    "densenet40_k12": {"optim.peak_lr": 0.1},
}
"""Values of each network, by dotted key, in the order in which they are trained."""


def recipe(budget: str, network: str) -> dict[str, Any]:
    """Returns the values by dotted key that differ from the defaults for this data set."""
    chosen = BUDGETS[budget]
    common = {"model.name": network, "train.epochs": chosen.epochs}
    return {**common, **chosen.values, **NETWORKS[network]}


def config(budget: str, network: str, seed: int) -> config_dict.ConfigDict:
    """Returns the configuration of one training of the study."""
    made = use_dataset(default_config(), BUDGETS[budget].dataset)
    for key, value in recipe(budget, network).items():
        schema.put(made, key, value)
    made.seed = seed
    made.train.plots &= seed == 0  # of each network at most one run has pictures
    return made
