"""A small network trained in 8 epochs by Muon: the recipe of the fastest trainings to 94 %.

jaxcnn train --config speedrun
jaxcnn evaluate runs/speedrun --tta mirror-shifts

The recipe is airbench94_muon (github.com/KellerJordan/cifar10-airbench); docs/speedrun.md tells
what is known of it here.
"""

from ml_collections import config_dict

from jaxcnn.config import default_config, use_dataset


def get_config(dataset: str = "cifar10") -> config_dict.ConfigDict:
    """Returns the recipe; `dataset` is what stands after the colon of --config."""
    config = use_dataset(default_config(), dataset)
    batch_size = 2000
    if dataset == "digits":  # 1,437 images: three steps an epoch
        batch_size = 400
    config.model.name = "speedrun"
    config.model.bn_momentum = 0.6

    config.train.epochs = 8
    config.train.batch_size = batch_size
    config.train.eval_batch_size = 500
    config.train.label_smoothing = 0.2

    config.augment.crop_padding = 2
    config.augment.crop_mode = "reflect"
    config.augment.flip_mode = "alternating"

    config.optim.name = "muon"
    config.optim.schedule = "linear"
    config.optim.warmup_epochs = 0.0
    config.optim.peak_lr = 0.24
    config.optim.momentum = 0.6
    # SGD's rates are stated for the sum of a batch's losses. Here the loss is their mean, whose
    # gradient is that of the sum divided by the batch; Muon's direction does not depend on it.
    config.optim.head_lr = 0.67 * batch_size
    config.optim.bias_lr = 0.053 * batch_size
    config.optim.sgd_momentum = 0.85
    config.optim.whiten_bias_epochs = 3.0
    # Stated as decay of a step, 2e-6 for each image: divided by the rate as SGD multiplies it.
    config.optim.weight_decay = 0.0
    config.optim.weight_decay_head = 2e-6 * batch_size / config.optim.head_lr
    config.optim.weight_decay_norm = 2e-6 * batch_size / config.optim.bias_lr
    return config
