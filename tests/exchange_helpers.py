"""Networks as public PyTorch code has them, in plain NumPy, and state dicts for them."""

import functools

import numpy as np
from conftest import SMALL

from jaxcnn.exchange import match, names, network, sources
from jaxcnn.exchange.network import to_torch

SHAPE = (16, 16, 3)


@functools.cache
def described(small, name):
    """A small network, described as if it were the one called `name`."""
    return network.describe(name, SMALL[small], SHAPE)


def layout(source, network_name):
    (found,) = sources.layouts(network_name, source)
    return found


def random_state(into, layout, seed=0):
    """A state dict of a source with random numbers, counters included."""
    rng = np.random.default_rng(seed)
    state = {}
    for path, name in names.of_arrays(into, names.of_layers(into, layout.rows)).items():
        shape = to_torch(np.empty(into.shapes[path])).shape
        state[name] = rng.normal(size=shape).astype(np.float32) * (0.3 if len(shape) > 1 else 0.1)
        if path.endswith(("/var", "/scale")):
            state[name] = 1 + np.abs(state[name])
        if path.endswith("/var"):
            state[name.replace("running_var", match.COUNTER)] = np.array(3)
    return state


# Networks as their sources have them, [B, C, H, W], in plain NumPy.


def conv(x, w, stride=1, pad=None):
    pad = w.shape[2] // 2 if pad is None else pad
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    if w.shape[1] == 1 and x.shape[1] > 1:  # depthwise
        return np.einsum("bchwyx,cyx->bchw", windows, w[:, 0])
    return np.einsum("bchwyx,ocyx->bohw", windows, w, optimize=True)


def pool(x, reduce):
    b, c, h, w = x.shape
    return reduce(x.reshape(b, c, h // 2, 2, w // 2, 2), axis=(3, 5))


class Torch:
    """A state dict whose layers can be called by name."""

    def __init__(self, state):
        """Computes in float64."""
        self.state = {name: array.astype(np.float64) for name, array in state.items()}

    def __getitem__(self, name):
        """The array called `name`."""
        return self.state[name]

    def bn(self, x, name):
        scale, bias, mean, var = (
            self[f"{name}.{last}"].reshape(-1, 1, 1)
            for last in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def bn_relu(self, x, name):
        return np.maximum(self.bn(x, name), 0)

    def linear(self, x, name):
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]


def lenet(t, x):
    for layer in ("conv1", "conv2"):
        x = conv(x, t[f"{layer}.weight"], pad=0) + t[f"{layer}.bias"].reshape(-1, 1, 1)
        x = pool(np.maximum(x, 0), np.max)
    x = x.reshape(len(x), -1)
    x = np.maximum(t.linear(x, "fc1"), 0)
    return t.linear(np.maximum(t.linear(x, "fc2"), 0), "fc3")


def residual(t, x, shortcut, last, blocks=("layer1.0", "layer2.0"), count=2):
    x = t.bn_relu(conv(x, t["conv1.weight"]), "bn1")
    for stage, name in enumerate(blocks):
        stride = 2 if stage else 1
        y = x
        for i in range(1, count + 1):
            step = stride if i == (1 if count == 2 else 2) else 1
            y = t.bn(conv(y, t[f"{name}.conv{i}.weight"], step), f"{name}.bn{i}")
            y = np.maximum(y, 0) if i < count else y
        x = np.maximum(y + shortcut(t, x, y, name, stride), 0)
    return t.linear(x.mean((2, 3)), last)


def centered_zeros(t, x, y, name, stride):
    """akamaster: half of the new channels before the old ones."""
    half = (y.shape[1] - x.shape[1]) // 2
    return np.pad(x[:, :, ::stride, ::stride], ((0, 0), (half, half), (0, 0), (0, 0)))


def projection(branch):
    def shortcut(t, x, y, name, stride):
        if f"{name}.{branch}.0.weight" not in t.state:
            return x
        x = conv(x, t[f"{name}.{branch}.0.weight"], stride)
        return t.bn(x, f"{name}.{branch}.1")

    return shortcut


def newest_first(t, x):
    """Kuangliu's DenseNet: [new, old]."""
    x = conv(x, t["conv1.weight"])
    for block in (1, 2):
        for layer in (0, 1):
            name = f"dense{block}.{layer}"
            y = conv(t.bn_relu(x, f"{name}.bn1"), t[f"{name}.conv1.weight"])
            y = conv(t.bn_relu(y, f"{name}.bn2"), t[f"{name}.conv2.weight"])
            x = np.concatenate([y, x], 1)
        if block == 1:
            x = pool(conv(t.bn_relu(x, "trans1.bn"), t["trans1.conv.weight"]), np.mean)
    return t.linear(t.bn_relu(x, "bn").mean((2, 3)), "linear")


def without_bottleneck(t, x):
    """Andreasveit's DenseNet: [old, new]."""
    x = conv(x, t["conv1.weight"])
    for block in (1, 2):
        for layer in (0, 1):
            name = f"block{block}.layer.{layer}"
            y = conv(t.bn_relu(x, f"{name}.bn1"), t[f"{name}.conv1.weight"])
            x = np.concatenate([x, y], 1)
        if block == 1:
            x = pool(conv(t.bn_relu(x, "trans1.bn1"), t["trans1.conv1.weight"]), np.mean)
    return t.linear(t.bn_relu(x, "bn1").mean((2, 3)), "fc")


def separable(t, x):
    x = t.bn_relu(conv(x, t["conv1.weight"], 2), "bn1")
    for block, stride in ((0, 1), (1, 2)):
        name = f"layers.{block}"
        x = t.bn_relu(conv(x, t[f"{name}.conv1.weight"], stride), f"{name}.bn1")
        x = t.bn_relu(conv(x, t[f"{name}.conv2.weight"]), f"{name}.bn2")
    return t.linear(x.mean((2, 3)), "linear")


def weiaicunzai(t, x):
    """Its names are another program's, with the same function as kuangliu's."""
    plain = {}
    for name, array in t.state.items():
        name = name.replace("conv1.0.", "stem.").replace("conv1.1.", "bn1.")
        for theirs, ours in (("0", "conv1"), ("1", "bn1"), ("3", "conv2"), ("4", "bn2")):
            name = name.replace(f"residual_function.{theirs}.", f"{ours}.")
        name = name.replace("conv2_x.", "layer1.").replace("conv3_x.", "layer2.")
        plain[name.replace("stem.", "conv1.")] = array
    return residual(Torch(plain), x, projection("shortcut"), "fc")


CASES = {
    "lenet": ("lenet", "lenet", "kuangliu", lenet),
    "option A": (
        *("resnet_padded", "resnet20", "akamaster"),
        lambda t, x: residual(t, x, centered_zeros, "linear"),
    ),
    "option B": (
        *("resnet", "resnet20b", "chenyaofo"),
        lambda t, x: residual(t, x, projection("downsample"), "fc"),
    ),
    "kuangliu": (
        *("resnet", "resnet18", "kuangliu"),
        lambda t, x: residual(t, x, projection("shortcut"), "linear"),
    ),
    "bottleneck": (
        *("resnet_bottleneck", "resnet50", "torchvision"),
        lambda t, x: residual(t, x, projection("downsample"), "fc", count=3),
    ),
    "weiaicunzai": ("resnet", "resnet34", "weiaicunzai", weiaicunzai),
    "newest first": ("densenet", "densenet121", "kuangliu", newest_first),
    "no bottleneck": (
        *("densenet_without_bottleneck", "densenet40_k12", "andreasveit"),
        without_bottleneck,
    ),
    "mobilenet": ("mobilenet", "mobilenet_v1", "kuangliu", separable),
}
