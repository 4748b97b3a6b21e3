"""The layers that all networks share: convolution, batch norm, ReLU between them, classifier head.

Parameter names, shapes and initial values are those of plain `nn.Conv`, `nn.BatchNorm` and
`nn.Dense`. All arrays are `[B, H, W, C]`. Each layer computes with `jaxcnn.ops` ("fast") or with
the primitives of lax and the arithmetic of flax ("stock").
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.errors import UserError

# Kept fraction of the running statistics, and epsilon: PyTorch's defaults (its momentum 0.1 is the
# new fraction), with which the published CIFAR-10 figures were made.
NORM_MOMENTUM = 0.9
NORM_EPSILON = 1e-5

OPS = ("fast", "stock")
"""The values of `ops`."""

NormArrays = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""Scale, bias, mean and variance."""


@dataclasses.dataclass(frozen=True)
class LayerFactory:
    """Creates the layers of a network with its options.

    Attributes:
        dtype: Compute dtype; parameters are float32.
        ops: "fast" or "stock".
        norm_groups: Equal parts of a batch, each of which is normalized alone.
        norm_momentum: Kept fraction of the norms' running statistics.
    """

    dtype: DTypeLike
    ops: str
    norm_groups: int
    norm_momentum: float = NORM_MOMENTUM

    def conv(
        self, features: int, kernel_size: int, *, kind: "type[Conv] | None" = None, **fields: Any
    ) -> "Conv":
        """A convolution, `Conv` or a `kind` of it, with its `fields`.

        Among these, `name` is needed outside `setup`.
        """
        return (kind or Conv)(features, kernel_size, dtype=self.dtype, ops=self.ops, **fields)

    def norm(self, **fields: Any) -> "BatchNorm":
        """A batch norm, `BatchNorm` with its `fields`; `name` is needed outside `setup`."""
        return BatchNorm(self.dtype, self.norm_groups, self.ops, self.norm_momentum, **fields)

    def relu(self, x: jax.Array) -> jax.Array:
        """ReLU of a sum that is kept for what follows."""
        return nn.relu(x) if self.ops == "stock" else ops.relu(x)

    def gelu(self, x: jax.Array) -> jax.Array:
        """The Gaussian error linear unit, not approximated by tanh."""
        return nn.gelu(x, approximate=False) if self.ops == "stock" else ops.gelu(x)

    def max_pool(self, x: jax.Array, window: tuple[int, int] = (2, 2)) -> jax.Array:
        """The largest of each window: `[B, H, W, C]` to `[B, H / 2, W / 2, C]` for one of 2x2."""
        pool = nn.max_pool if self.ops == "stock" else ops.max_pool
        return pool(x, window, strides=window)

    def avg_pool(self, x: jax.Array) -> jax.Array:
        """The mean of each 2x2 pixels: `[B, H, W, C]` to `[B, H / 2, W / 2, C]`."""
        pool = nn.avg_pool if self.ops == "stock" else ops.avg_pool
        return pool(x, (2, 2), strides=(2, 2))

    def classifier(self, x: jax.Array, num_classes: int) -> jax.Array:
        """Mean over all positions, then a dense layer: `[B, H, W, C]` to float32 logits `[B, K]`.

        It is named "classifier" in the calling module.
        """
        means = jnp.mean(x, axis=(1, 2))
        logits = nn.Dense(num_classes, dtype=self.dtype, name="classifier")(means)
        return ops.at_least_float32(logits)


def he_fan_out(groups: int = 1) -> Callable[..., jax.Array]:
    """Normal initial values with variance 2 / fan-out (He et al. 2015, arXiv:1502.01852, eq. 14).

    Fan-out counts what one input value really feeds: kernel area times output channels of its
    group. (For a depthwise kernel that is 9, where flax's and PyTorch's own rule says 9 C.)
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        fan_out = shape[0] * shape[1] * shape[3] // groups
        return jax.random.normal(key, shape, dtype) * jnp.sqrt(2.0 / fan_out).astype(dtype)

    return init


class Conv(nn.Module):
    """A square convolution, `[B, H, W, C]` to `[B, H', W', features]`, with `nn.Conv`'s parameters.

    With "SAME", the padding is kernel_size // 2 on every side, as in the papers' code, whatever the
    stride. (XLA's own "SAME" pads a strided convolution of an even size at the end only.)

    Attributes:
        features: Output channels, F.
        kernel_size: Height and width of the kernel.
        strides: Step of the window along height and width.
        padding: "SAME" or "VALID".
        groups: 1, or C for a depthwise convolution.
        use_bias: Whether a bias is added.
        dtype: Compute dtype.
        ops: "fast" or "stock".
    """

    features: int
    kernel_size: int
    strides: int = 1
    padding: str = "SAME"
    groups: int = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    ops: str = "fast"

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `[B, H, W, C]`."""
        stock = self.ops == "stock"
        convolve = jax.lax.conv_general_dilated if stock else ops.conv_general_dilated
        kernel, bias = self.weights(x.shape[-1])
        y = convolve(
            x.astype(self.dtype),
            kernel,
            self.window_strides(),
            self.pads(),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """The kernel, `[h, w, channels / groups, F]`, and the bias, `[F]`, in the compute dtype."""
        shape = (self.kernel_size, self.kernel_size, channels // self.groups, self.features)
        kernel = self.param("kernel", he_fan_out(self.groups), shape, jnp.float32)
        if not self.use_bias:
            return kernel.astype(self.dtype), None
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    def window_strides(self) -> tuple[int, int]:
        """The strides along height and width."""
        return self.strides, self.strides

    def pads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The pixels of padding before and after, along height and width."""
        margin = self.kernel_size // 2 if self.padding == "SAME" else 0
        return (margin, margin), (margin, margin)


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe & Szegedy 2015), with the variables of `nn.BatchNorm`.

    `nn.BatchNorm` subtracts the mean and keeps the difference for the backward pass: one more array
    of the size of the input, written and read again. `ops.normalize` needs the input alone.

    With several groups, each equal part of the batch, in order, is normalized by its own
    statistics, and the running statistics take their average: if a device holds each part, nothing
    is exchanged between devices.

    Attributes:
        dtype: Dtype of the result; statistics are in float32 or better.
        groups: Number of groups; 1 normalizes over the whole batch.
        ops: "fast" or "stock".
        momentum: Kept fraction of the running statistics.
        epsilon: Added to the variance.
        use_scale: Whether there is a scale; without one it is 1.
    """

    dtype: DTypeLike
    groups: int = 1
    ops: str = "fast"
    momentum: float = NORM_MOMENTUM
    epsilon: float = NORM_EPSILON
    use_scale: bool = True

    def __call__(self, x: jax.Array, *, train: bool, with_relu: bool = False) -> jax.Array:
        """Normalizes each channel of `[B, ..., C]`, then applies ReLU if asked for.

        Raises:
            UserError: If the groups do not divide the batch.
        """
        scale, bias, mean, var = self.weights_and_moments(x, train=train)
        if self.ops == "stock":
            y = _normalize_as_flax(x, scale, bias, mean, var, self.epsilon)
        elif train:
            y = ops.normalize(x, scale, bias, mean, var, self.epsilon, with_relu)
            return y.astype(self.dtype)
        else:
            factor = scale * jax.lax.rsqrt(var + self.epsilon)
            factor, shift = (_along(x, array) for array in (factor, bias - mean * factor))
            y = x * factor + shift
        return (jax.nn.relu(y) if with_relu else y).astype(self.dtype)

    @nn.compact
    def weights_and_moments(self, x: jax.Array, *, train: bool) -> NormArrays:
        """Scale, bias, mean and variance; those of the batch, which update the running ones.

        Args:
            x: `[B, ..., C]`.
            train: Whether the moments are those of `x`, else the running ones.

        Returns:
            `[C]` each; mean and variance `[groups, C]` if there are several groups.

        Raises:
            UserError: If the groups do not divide the batch.
        """
        channels = x.shape[-1]
        scale = jnp.ones((channels,), jnp.float32)
        if self.use_scale:
            scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train:
            return scale, bias, running_mean.value, running_var.value
        if x.shape[0] % self.groups:
            raise UserError(
                f"norm_groups={self.groups} does not divide a batch of {x.shape[0]} images; "
                "choose a divisor of the batch size"
            )
        moments = _moments_as_flax if self.ops == "stock" else ops.moments
        mean, var = moments(x, self.groups)
        if not self.is_initializing():
            running = {"mean": running_mean.value, "var": running_var.value}
            updated = updated_moments(running, mean, var, self.momentum)
            running_mean.value, running_var.value = updated["mean"], updated["var"]
        return scale, bias, mean, var


def updated_moments(
    running: Mapping[str, jax.Array],
    mean: jax.Array,
    var: jax.Array,
    momentum: float = NORM_MOMENTUM,
) -> dict[str, jax.Array]:
    """Returns the running "mean" and "var", of which `momentum` is kept, after one more batch.

    Moments of several groups, `[groups, C]`, are averaged.
    """
    now = {name: a if a.ndim == 1 else a.mean(0) for name, a in (("mean", mean), ("var", var))}
    return {name: momentum * running[name] + (1 - momentum) * now[name] for name in now}


def norm_relu_conv(x: jax.Array, norm: BatchNorm, conv: Conv, *, train: bool) -> jax.Array:
    """`conv` of the ReLU of `norm`; in training the array between is not kept where it need not be.

    Args:
        x: The norm's input, `[B, H, W, C]`.
        norm: The norm.
        conv: The convolution, without a bias.
        train: Whether the batch's statistics normalize.
    """
    is_one_dtype = x.dtype == norm.dtype == conv.dtype
    if not train or norm.ops == "stock" or conv.use_bias or not is_one_dtype:
        return conv(norm(x, train=train, with_relu=True))
    kernel, _ = conv.weights(x.shape[-1])
    return ops.norm_relu_conv(
        x,
        *norm.weights_and_moments(x, train=train),
        kernel,
        conv.window_strides(),
        conv.pads(),
        conv.groups,
        epsilon=norm.epsilon,
    )


def recomputed(block: type[nn.Module]) -> type[nn.Module]:
    """The block class, computed again in the backward pass: same numbers, less memory, more time.

    Takes `(x, train)`, by position (Chen et al. 2016, arXiv:1604.06174).
    """
    return nn.remat(block, static_argnums=(2,))  # 0 is the module, 2 is `train`


def check_images(images: jax.Array, network: str, smallest: int) -> None:
    """Raises UserError unless `images` are `[B, H, W, C]`, H and W at least `smallest` pixels."""
    if images.ndim != 4:
        raise UserError(f"{network} takes images [B, H, W, C], not shape {images.shape}")
    height, width = images.shape[1:3]
    if min(height, width) < smallest:
        raise UserError(
            f"{network} cannot take images of {height}x{width} pixels: "
            f"it needs {smallest}x{smallest} at least; choose another model.name or data set"
        )


def _along(x: jax.Array, channels: jax.Array) -> jax.Array:
    """`[C]` in the rank of `x`, `[..., C]`."""
    return jnp.expand_dims(channels, range(x.ndim - 1))


def _moments_as_flax(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """`ops.moments` as flax computes them, differentiable: `[C]`, or `[groups, C]`."""
    if groups > 1:
        return jax.vmap(lambda x: _moments_as_flax(x, 1))(x.reshape(groups, -1, *x.shape[1:]))
    x, axes = ops.at_least_float32(x), tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    return mean, jnp.maximum(0.0, jnp.mean(jnp.square(x), axes) - jnp.square(mean))


def _normalize_as_flax(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
) -> jax.Array:
    """`ops.normalize` without ReLU in the operations of `nn.BatchNorm`, `[B, ..., C]`."""

    def group(x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        factor = jax.lax.rsqrt(_along(x, var) + epsilon) * _along(x, scale)
        return (x - _along(x, mean)) * factor + _along(x, bias)

    if mean.ndim == 1:
        return group(x, mean, var)
    y: jax.Array = jax.vmap(group)(x.reshape(mean.shape[0], -1, *x.shape[1:]), mean, var)
    return y.reshape(x.shape)
