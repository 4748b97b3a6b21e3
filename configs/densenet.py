"""DenseNet-BC (L = 100, k = 12) on CIFAR-10.

jaxcnn train --config densenet --train.epochs=1 --dataset.train_split='train[:4000]'

What this gives: docs/results.md.
"""

from ml_collections import config_dict

from jaxcnn.config import default_config, use_dataset


def get_config(dataset: str = "cifar10") -> config_dict.ConfigDict:
    """Returns the recipe; `dataset` is what stands after the colon of --config."""
    config = default_config()
    config.model.name = "densenet_bc100_k12"
    config.optim.peak_lr = 0.1
    config.train.epochs = 30
    return use_dataset(config, dataset)
