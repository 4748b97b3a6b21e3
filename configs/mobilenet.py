"""MobileNet on CIFAR-10: eight depthwise-separable blocks.

jaxcnn train --config mobilenet --train.epochs=15

What this gives: docs/results.md.
"""

from ml_collections import config_dict

from jaxcnn.config import default_config, use_dataset


def get_config(dataset: str = "cifar10") -> config_dict.ConfigDict:
    """Returns the recipe; `dataset` is what stands after the colon of --config."""
    config = default_config()
    config.model.name = "mobilenet"
    config.optim.peak_lr = 0.2
    config.optim.warmup_epochs = 0.5
    config.train.epochs = 30
    return use_dataset(config, dataset)
