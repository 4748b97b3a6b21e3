"""The recipe of configs/speedrun.py in PyTorch alone, on the CPU, for scripts/bench/speedrun.py.

Network, whitening, flips, crops, shuffling, Muon, loss and views of an image are its own: float32,
channels_last. Values that the recipe has in common with ours are read from the settings.
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jaxcnn import data
from jaxcnn.config.settings import Settings

_WHITENED = 5000
_EPSILON = 5e-4
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Conv(nn.Conv2d):
    """A 3x3 convolution that begins as the identity of its first channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Creates it without a bias."""
        super().__init__(inputs, outputs, 3, padding=1, bias=False)
        with torch.no_grad():
            nn.init.dirac_(self.weight[:inputs])


class Norm(nn.BatchNorm2d):
    """A batch norm whose scale stays 1."""

    def __init__(self, channels: int, kept: float) -> None:
        """Creates one that keeps the fraction `kept` of its running statistics at each step."""
        super().__init__(channels, eps=1e-12, momentum=1 - kept)
        self.weight.requires_grad_(False)


class Group(nn.Module):
    """Two convolutions with their norms, or three with a shortcut over the last two."""

    def __init__(self, inputs: int, outputs: int, kept: float, is_residual: bool) -> None:
        """Creates the layers, in order of use."""
        super().__init__()
        depth = 3 if is_residual else 2
        self.convs = nn.ModuleList(
            Conv(outputs if index else inputs, outputs) for index in range(depth)
        )
        self.norms = nn.ModuleList(Norm(outputs, kept) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, C, H, W]` to `[B, outputs, H / 2, W / 2]`."""
        first = functional.gelu(self.norms[0](functional.max_pool2d(self.convs[0](x), 2)))
        x = self.norms[1](self.convs[1](first))
        if len(self.convs) == 3:
            x = self.norms[2](self.convs[2](functional.gelu(x))) + first
        return functional.gelu(x)


class Speedrun(nn.Module):
    """The network; the weight of `whitening` is a buffer in all but name."""

    def __init__(
        self, widths: tuple[int, ...], kept: float, is_residual: bool, classes: int = 10
    ) -> None:
        """Creates it for images of three channels."""
        super().__init__()
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad_(False)
        pairs = zip((24, *widths), widths, strict=False)
        self.groups = nn.Sequential(*(Group(a, b, kept, is_residual) for a, b in pairs))
        self.head = nn.Linear(widths[-1], classes, bias=False)
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, 3, H, W]` to logits `[B, K]`."""
        x = self.groups(functional.gelu(self.whitening(x)))
        x = functional.max_pool2d(x, min(3, x.shape[-1])).flatten(1)
        return self.head(x) / x.shape[1]

    @torch.no_grad()
    def whiten(self, images: torch.Tensor) -> None:
        """Sets the whitening weight by normalized images `[N, 3, H, W]`."""
        patches = functional.unfold(images[:_WHITENED], 2).transpose(1, 2).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + _EPSILON).sqrt()).T.reshape(12, 3, 2, 2)
        self.whitening.weight.copy_(torch.cat([filters, -filters]))


class Optimizer:
    """Muon for kernels of convolutions, PyTorch's SGD for all else, one schedule."""

    def __init__(self, network: Speedrun, settings: Settings, total: int, per_epoch: int) -> None:
        """Takes the rates of the settings, which are for the mean loss; here it is the sum."""
        optim, batch = settings.optim, settings.train.batch_size
        assert optim.head_lr is not None and optim.bias_lr is not None
        self._kernels = [module.weight for module in network.modules() if isinstance(module, Conv)]
        self._buffers = [torch.zeros_like(kernel) for kernel in self._kernels]
        self._optim, self._total = optim, total
        self._whitening_steps = math.ceil(optim.whiten_bias_epochs * per_epoch)
        biases = [module.bias for module in network.modules() if isinstance(module, Norm)]
        decay = {"weight_decay": optim.weight_decay_norm * batch}
        self._rates = [optim.bias_lr / batch, optim.bias_lr / batch, optim.head_lr / batch]
        self._sgd = torch.optim.SGD(
            [
                {"params": [network.whitening.bias], **decay},
                {"params": biases, **decay},
                {
                    "params": [network.head.weight],
                    "weight_decay": (optim.weight_decay_head or 0.0) * batch,
                },
            ],
            lr=1.0,
            momentum=optim.sgd_momentum,
            nesterov=True,
        )
        self._bias = network.whitening.bias

    def step(self, number: int) -> None:
        """Takes the step of a number, from 0 on, by the gradients of the summed loss."""
        left = 1 - number / self._total
        if number >= self._whitening_steps:
            self._bias.grad = None  # so that SGD passes it over
        shares = (1 - number / self._whitening_steps, left, left)
        for group, rate, share in zip(self._sgd.param_groups, self._rates, shares, strict=True):
            group["lr"] = rate * share
        self._sgd.step()
        with torch.no_grad():
            for kernel, buffer in zip(self._kernels, self._buffers, strict=True):
                self._move(kernel, buffer, self._optim.peak_lr * left)
        for parameter in (
            *self._kernels,
            *(p for g in self._sgd.param_groups for p in g["params"]),
        ):
            parameter.grad = None

    def _move(self, kernel: torch.Tensor, buffer: torch.Tensor, rate: float) -> None:
        momentum, grad = self._optim.momentum, kernel.grad
        assert grad is not None
        buffer.mul_(momentum).add_(grad)
        x = grad.add(buffer, alpha=momentum).reshape(len(grad), -1)
        is_tall = x.shape[0] > x.shape[1]
        x = x.T if is_tall else x
        x = x / x.norm().clamp_min(1e-12)
        a, b, c = _COEFFICIENTS
        for _ in range(3):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        x = x.T if is_tall else x
        kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
        kernel.sub_(x.reshape(kernel.shape), alpha=rate)


def normalized(images: np.ndarray, settings: Settings) -> torch.Tensor:
    """Returns uint8 `[N, H, W, 3]` as the network takes them, `[N, 3, H, W]`."""
    mean, std = (torch.tensor(row).view(1, -1, 1, 1) for row in settings.pixel_stats)
    channels_first = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    normal = (channels_first.float() / 255 - mean) / std
    return normal.contiguous(memory_format=torch.channels_last)


def epochs(images: torch.Tensor, padding: int, seed: int) -> Iterator[torch.Tensor]:
    """Yields the images of each epoch, cropped at random, mirrored in turns."""
    generator = torch.Generator().manual_seed(seed)
    count, _, height, width = images.shape
    mirrored = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    padded = functional.pad(images, (padding,) * 4, "reflect") if padding else images
    epoch = 0
    while True:
        shifts = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
        result = torch.empty_like(images)
        for y in range(2 * padding + 1):
            for x in range(2 * padding + 1):
                rows = (shifts[:, 0] == y) & (shifts[:, 1] == x)
                result[rows] = padded[rows, :, y : y + height, x : x + width]
        yield result.flip(3) if epoch % 2 else result
        epoch += 1


def train(settings: Settings, dataset: data.Dataset, seed: int) -> dict[str, Any]:
    """Trains with one seed; returns accuracies, and seconds of the steps, images included."""
    torch.manual_seed(seed)
    module: Any = settings.create_model()
    widths = tuple(max(8, int(width * module.width)) for width in module.widths)
    classes = len(settings.facts.class_names)
    network = Speedrun(widths, settings.model.bn_momentum, module.is_residual, classes)
    network = network.to(memory_format=torch.channels_last)
    images, labels = normalized(dataset.train.images, settings), _labels(dataset.train)
    network.whiten(images)
    per_epoch, batch = settings.steps_per_epoch, settings.train.batch_size
    optimizer = Optimizer(network, settings, settings.total_steps, per_epoch)
    generator = torch.Generator().manual_seed(seed + 1)
    step = 0
    source = epochs(images, settings.augment.crop_padding, seed)
    network.train()
    began = time.perf_counter()
    for _ in range(settings.train.epochs):
        augmented = next(source)
        order = torch.randperm(len(labels), generator=generator)
        for rows in order[: per_epoch * batch].split(batch):
            loss_of(network, augmented[rows], labels[rows], settings).backward()
            optimizer.step(step)
            step += 1
    seconds = time.perf_counter() - began
    network.eval()
    plain, with_views = _accuracies(network, dataset.eval, settings)
    return {
        "seed": seed,
        "accuracy": plain,
        "accuracy_with_views": with_views,
        "train_seconds": round(seconds, 3),
    }


def loss_of(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, settings: Settings
) -> torch.Tensor:
    """Returns the summed loss of a batch."""
    return functional.cross_entropy(
        network(images), labels, label_smoothing=settings.train.label_smoothing, reduction="sum"
    )


@torch.no_grad()
def _accuracies(network: nn.Module, split: data.Split, settings: Settings) -> tuple[float, float]:
    """Returns the accuracy on a split, without and with the six views of each image."""
    images, labels = normalized(split.images, settings), _labels(split)
    plain = with_views = 0
    size = settings.train.eval_batch_size
    for part, truth in zip(images.split(size), labels.split(size), strict=True):
        height, width = part.shape[2:]
        padded = functional.pad(part, (1,) * 4, "reflect")
        shifted = [padded[..., i : i + height, i : i + width] for i in (0, 2)]
        first = network(part)
        total = 0.25 * (first + network(part.flip(3)))
        for view in shifted:
            total = total + 0.125 * (network(view) + network(view.flip(3)))
        plain += int((first.argmax(1) == truth).sum())
        with_views += int((total.argmax(1) == truth).sum())
    return plain / len(labels), with_views / len(labels)


def _labels(split: data.Split) -> torch.Tensor:
    return torch.from_numpy(split.labels.astype(np.int64))
