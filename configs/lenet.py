"""LeNet on CIFAR-10: the study's basic CNN.

jaxcnn train --config lenet --train.epochs=15

What this gives: docs/results.md.
"""

from ml_collections import config_dict

from jaxcnn.config import default_config, use_dataset


def get_config(dataset: str = "cifar10") -> config_dict.ConfigDict:
    """Returns the recipe; `dataset` is what stands after the colon of --config."""
    config = default_config()
    config.model.name = "lenet"
    config.optim.peak_lr = 0.05
    config.train.epochs = 30
    config.train.label_smoothing = 0.0  # 62,006 parameters underfit: nothing to regularize
    return use_dataset(config, dataset)
