"""The same networks in PyTorch, for scripts/bench/steps.py alone.

Each is built from the fields of the flax module, so that a variant has one definition; parameter
counts are compared before anything is timed.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def create(model: Any) -> nn.Module:
    """Returns the PyTorch twin of a network from `jaxcnn.models.create`, for 32x32x3 images."""
    builders = {"LeNet": _lenet, "ResNet": ResNet, "DenseNet": _densenet, "MobileNet": _mobilenet}
    return builders[type(model).__name__](model)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def _lenet(model: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(inplace=True),
        nn.Linear(120, 84),
        nn.ReLU(inplace=True),
        nn.Linear(84, model.num_classes),
    )


def _mobilenet(model: Any) -> nn.Module:
    channels = model.scaled(32)
    layers: list[nn.Module] = [_conv(3, channels, 3, model.stem_strides), *_norm_relu(channels)]
    for features, stride in model.blocks:
        features = model.scaled(features)
        layers += [_conv(channels, channels, 3, stride, channels), *_norm_relu(channels)]
        layers += [_conv(channels, features, 1), *_norm_relu(features)]
        channels = features
    return nn.Sequential(*layers, *_head(channels, model.num_classes))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions or a bottleneck, and a shortcut (projection or padded)."""

    def __init__(self, inputs: int, width: int, stride: int, model: Any) -> None:
        """Maps `inputs` channels to `width` (four times that with a bottleneck)."""
        super().__init__()
        outputs = width * (4 if model.bottleneck else 1)
        if model.bottleneck:
            plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        else:
            plan = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        layers: list[nn.Module] = []
        for index, (before, after, kernel, step) in enumerate(plan, start=1):
            layers += [_conv(before, after, kernel, step), nn.BatchNorm2d(after)]
            if index < len(plan):
                layers.append(nn.ReLU(inplace=True))
        self.body = nn.Sequential(*layers)
        self.stride, self.missing = stride, outputs - inputs
        self.padded = model.shortcut == "padded"
        self.project: nn.Module = nn.Identity()
        if (stride != 1 or inputs != outputs) and not self.padded:
            self.project = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block to `[B, C, H, W]`."""
        if self.padded and (self.stride != 1 or self.missing):
            strided = x[:, :, :: self.stride, :: self.stride]
            carried = functional.pad(strided, (0, 0, 0, 0, 0, self.missing))
        else:
            carried = self.project(x)
        return torch.relu_(self.body(x) + carried)


class ResNet(nn.Sequential):
    """A 3x3 stem, stages of residual blocks, and a classifier."""

    def __init__(self, model: Any) -> None:
        """Builds the variant that the flax module describes."""
        channels = model.widths[0]
        layers: list[nn.Module] = [_conv(3, channels, 3), *_norm_relu(channels)]
        for stage, (blocks, width) in enumerate(zip(model.blocks, model.widths, strict=True)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(ResidualBlock(channels, width, stride, model))
                channels = width * (4 if model.bottleneck else 1)
        super().__init__(*layers, *_head(channels, model.num_classes))


class DenseLayer(nn.Sequential):
    """Appends `growth_rate` new channels to its input."""

    def __init__(self, channels: int, model: Any) -> None:
        """Takes `channels` channels."""
        layers: list[nn.Module] = []
        if model.bn_size:
            width = model.bn_size * model.growth_rate
            layers += [*_norm_relu(channels), _conv(channels, width, 1)]
            channels = width
        layers += [*_norm_relu(channels), _conv(channels, model.growth_rate, 3)]
        super().__init__(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the layer to `[B, C, H, W]`."""
        return torch.cat([x, super().forward(x)], 1)


def _densenet(model: Any) -> nn.Module:
    channels = model.stem or 2 * model.growth_rate
    layers: list[nn.Module] = [_conv(3, channels, 3)]
    for block, depth in enumerate(model.blocks):
        if block:
            after = int(channels * model.compression)
            layers += [*_norm_relu(channels), _conv(channels, after, 1), nn.AvgPool2d(2)]
            channels = after
        for _ in range(depth):
            layers.append(DenseLayer(channels, model))
            channels += model.growth_rate
    return nn.Sequential(*layers, *_norm_relu(channels), *_head(channels, model.num_classes))
