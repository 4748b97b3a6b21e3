"""What tuning may see: a part of the training split held out, never the test split.

A value that is chosen by the test split is fitted to it, and what the test split then says of the
final runs is too good.
"""

from ml_collections import config_dict

from jaxcnn.errors import UserError
from jaxcnn.run.best import is_held_out

TRAIN, HELD_OUT = "train[:90%]", "train[90%:]"
"""The default division of the training split; of CIFAR-10 train[:45000] and train[45000:]."""


def hold_out(config: config_dict.ConfigDict, chosen: bool) -> None:
    """Lets a configuration train on a part of the training split and evaluate on the rest.

    Splits that leave the test split alone stay as they are.

    Args:
        config: Is changed.
        chosen: Whether the user has named the splits for this purpose; else a whole training split
            is divided.

    Raises:
        UserError: If the test split would be seen all the same.
    """
    section = config.dataset
    if not chosen and section.train_split == "train" and not is_held_out(section.eval_split):
        section.train_split, section.eval_split = TRAIN, HELD_OUT
    for key in ("train_split", "eval_split"):
        check(f"dataset.{key}", section[key])


def check(key: str, split: str) -> None:
    """Raises UserError if a split that something is chosen by has test images."""
    if not is_held_out(split):
        raise UserError(
            f"{key}={split!r} is refused: what is chosen by the test split is fitted to it; leave "
            f"both splits out for {TRAIN!r} and {HELD_OUT!r}, or name parts of train or "
            "validation; the final runs, of several seeds alone, may be evaluated on the test split"
        )
