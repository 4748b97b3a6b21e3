"""A training in PyTorch by the recipe of a configuration, for scripts/checks/torch_training.py.

Written with PyTorch alone: shuffling, crops, flips, loss, optimizer and batch norm are its own.
"""

import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jaxcnn import data
from jaxcnn.config.settings import Settings
from jaxcnn.errors import UserError
from jaxcnn.models import layers, summary
from jaxcnn.train.optim import create_optimizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import torch_networks  # noqa: E402 (a script, not a module of the package)

# Far from the seeds of our own trainings, which draw from the same generator.
TORCH_SEEDS = 1_000_000
_LARGEST_DIFFERENCE = 1e-3  # of two forward passes in float32, in logits


def use_threads(count: int) -> None:
    """Lets PyTorch compute with so many threads."""
    torch.set_num_threads(count)


def initial_values(settings: Settings, network: nn.Module, seed: int) -> None:
    """Gives the PyTorch network what the flax network draws from a seed.

    Raises:
        UserError: If the two then compute different logits.
    """
    model = settings.create_model()
    images = np.random.default_rng(seed).normal(size=(4, *settings.facts.image_shape))
    inputs = jnp.asarray(images, jnp.float32)
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(seed))
    values: list[dict[str, np.ndarray]] = []
    for layer in summary.layers(model, settings.facts.image_shape):
        tree = variables["params"]
        for name in layer.name.split("/"):
            tree = tree[name]
        values.append({key: np.asarray(array) for key, array in tree.items()})
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    targets = [module for module in network.modules() if isinstance(module, kinds)]
    channels = 0
    for module, arrays in zip(targets, values, strict=True):
        channels = _copy(module, arrays, channels)
    network.eval()
    with torch.no_grad():
        channels_first = torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2))
        found = network(channels_first).numpy()
    expected = np.asarray(model.apply(variables, inputs, train=False))
    if not (worst := np.abs(found - expected).max()) < _LARGEST_DIFFERENCE:
        raise UserError(f"{settings.model.name} and its PyTorch twin differ by {worst} in logits")


def _copy(module: Any, arrays: dict[str, np.ndarray], before: int) -> int:
    """Copies a layer's arrays; returns its channels, 0 after a dense layer."""
    weight = arrays["scale" if isinstance(module, nn.BatchNorm2d) else "kernel"]
    channels = before
    if isinstance(module, nn.Conv2d):
        weight, channels = weight.transpose(3, 2, 0, 1), weight.shape[-1]
    elif isinstance(module, nn.Linear):
        if before and weight.shape[0] != before:  # flattened images, here [H, W, C]
            side = math.isqrt(weight.shape[0] // before)
            weight = weight.reshape(side, side, before, -1).transpose(2, 0, 1, 3)
            weight = weight.reshape(-1, weight.shape[-1])
        weight, channels = weight.T, 0
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.array(weight, order="C")))
        if "bias" in arrays:
            module.bias.copy_(torch.from_numpy(arrays["bias"].copy()))
    return channels


def augmented(
    images: torch.Tensor, padding: int, flip: bool, generator: torch.Generator
) -> torch.Tensor:
    """Crops uint8 `[B, C, H, W]` at random, black around them, and mirrors half of the images."""
    count, _, height, width = images.shape
    if padding:
        padded = functional.pad(images, (padding,) * 4)
        corners = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
        rows = (corners[0] + torch.arange(height))[:, :, None]
        columns = (corners[1] + torch.arange(width))[:, None, :]
        which = torch.arange(count)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images


def optimizer_of(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Returns PyTorch's SGD with weight decay on kernels alone; the rate is set at each step."""
    optim = settings.optim
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    groups = [
        {"params": kernels, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups,
        lr=optim.peak_lr,
        momentum=optim.momentum,
        nesterov=optim.nesterov and optim.momentum > 0,
    )


def train(settings: Settings, dataset: data.Dataset, seed: int) -> dict[str, Any]:
    """Trains in PyTorch with one seed, and returns the scores after the last epoch."""
    began = time.monotonic()
    torch.manual_seed(TORCH_SEEDS + seed)
    network = torch_networks.create(settings.create_model())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1 - layers.NORM_MOMENTUM
    initial_values(settings, network, TORCH_SEEDS + seed)
    network = network.to(memory_format=torch.channels_last)
    section = settings.train
    schedule = create_optimizer(
        settings.optim, epochs=section.epochs, steps_per_epoch=settings.steps_per_epoch
    ).learning_rate
    rates = np.asarray(schedule(np.arange(settings.total_steps)))
    optimizer = optimizer_of(network, settings)
    generator = torch.Generator().manual_seed(TORCH_SEEDS + seed)
    images, labels = _tensors(dataset.train)
    losses: list[float] = []
    for epoch in range(section.epochs):
        network.train()
        order = torch.randperm(len(labels), generator=generator)
        losses.clear()
        for index in range(settings.steps_per_epoch):
            rows = order[index * section.batch_size : (index + 1) * section.batch_size]
            batch = augmented(
                images[rows],
                settings.augment.crop_padding,
                bool(settings.augment.flip),
                generator,
            )
            for group in optimizer.param_groups:
                group["lr"] = float(rates[epoch * settings.steps_per_epoch + index])
            logits = network(_normalized(batch, settings))
            loss = functional.cross_entropy(
                logits, labels[rows], label_smoothing=section.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"  PyTorch, seed {seed}, epoch {epoch + 1}: loss {np.mean(losses):.4f}", flush=True)
    accuracy, eval_loss = evaluated(network, dataset.eval, settings)
    return {
        "seed": seed,
        "epoch": section.epochs,
        "train_loss": float(np.mean(losses)),
        "eval_loss": eval_loss,
        "eval_accuracy": accuracy,
        "total_seconds": round(time.monotonic() - began, 1),
    }


def evaluated(network: nn.Module, split: data.Split, settings: Settings) -> tuple[float, float]:
    """Returns (accuracy, mean loss) over the whole split."""
    images, labels = _tensors(split)
    size, hits, loss = settings.train.eval_batch_size, 0, 0.0
    network.eval()
    with torch.no_grad():
        for start in range(0, len(labels), size):
            logits = network(_normalized(images[start : start + size], settings))
            chosen = labels[start : start + size]
            hits += int((logits.argmax(1) == chosen).sum())
            loss += float(functional.cross_entropy(logits, chosen, reduction="sum"))
    return hits / len(labels), loss / len(labels)


def _tensors(split: data.Split) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(np.ascontiguousarray(split.images.transpose(0, 3, 1, 2)))
    return images, torch.from_numpy(split.labels.astype(np.int64))


def _normalized(images: torch.Tensor, settings: Settings) -> torch.Tensor:
    mean, std = (torch.tensor(row).view(1, -1, 1, 1) for row in settings.pixel_stats)
    normal = (images.float() / 255 - mean) / std
    return normal.contiguous(memory_format=torch.channels_last)
