"""The layers that all networks share: convolution, batch norm with ReLU, classifier head.

Each function creates one named flax layer inside the calling module's compact method, so parameter
names and shapes are those of plain `nn.Conv`, `nn.BatchNorm` and `nn.Dense`. All arrays are
`[B, H, W, C]`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.errors import UserError
from jaxcnn.models.batch_norm import BatchNorm
from jaxcnn.ops import DeferredNorm

# Kept fraction of the running statistics, and epsilon: PyTorch's defaults (its momentum 0.1 is the
# new fraction), with which the published CIFAR-10 figures were made.
NORM_MOMENTUM = 0.9
NORM_EPSILON = 1e-5


def he_fan_out(groups: int = 1) -> Callable[..., jax.Array]:
    """Normal initial values with variance 2 / fan-out (He et al. 2015, arXiv:1502.01852, eq. 14).

    Fan-out counts what one input value really feeds: kernel area times output channels of its
    group. (For a depthwise kernel that is 9, where flax's and PyTorch's own rule says 9 C.)
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        fan_out = shape[0] * shape[1] * shape[3] // groups
        return jax.random.normal(key, shape, dtype) * jnp.sqrt(2.0 / fan_out).astype(dtype)

    return init


def conv(
    x: jax.Array | DeferredNorm,
    features: int,
    kernel: int,
    *,
    name: str,
    dtype: DTypeLike,
    strides: int = 1,
    padding: str = "SAME",
    groups: int = 1,
    use_bias: bool = False,
) -> jax.Array:
    """Applies a square convolution, `[B, H, W, C]` to `[B, H', W', features]`.

    With "SAME", the padding is kernel // 2 on every side, as in the papers' code, whatever the
    stride. (XLA's own "SAME" pads a strided convolution of an even size at the end only.)
    """
    margin = kernel // 2
    convolve: Callable[..., jax.Array] = ops.conv_general_dilated
    if isinstance(x, DeferredNorm):
        deferred, x = x, x.x

        def convolve(_: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
            return ops.conv_of_normalised(deferred, kernel, *args, **kwargs)

    layer = nn.Conv(
        features,
        (kernel, kernel),
        strides=strides,
        padding=[(margin, margin)] * 2 if padding == "SAME" else padding,
        feature_group_count=groups,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=he_fan_out(groups),
        conv_general_dilated=convolve,
        name=name,
    )
    return layer(x)


def value(x: jax.Array | DeferredNorm) -> jax.Array:
    """Returns the array, computed if it was not."""
    return x.value() if isinstance(x, DeferredNorm) else x


def norm(x: jax.Array, *, train: bool, name: str, dtype: DTypeLike) -> jax.Array:
    """Batch normalisation (Ioffe & Szegedy 2015); statistics over the whole global batch."""
    return value(batch_norm(x, train=train, name=name, dtype=dtype))


def norm_relu(x: jax.Array, *, train: bool, name: str, dtype: DTypeLike) -> jax.Array:
    """Batch normalisation, then ReLU."""
    return value(batch_norm(x, train=train, name=name, dtype=dtype, is_rectified=True))


def norm_relu_before_conv(
    x: jax.Array, *, train: bool, name: str, dtype: DTypeLike
) -> jax.Array | DeferredNorm:
    """`norm_relu`, the result of which is not kept for the backward pass if `conv` is what follows.

    On the CPU, where it takes no longer. MobileNet's step at batch 128: 34.7 in place of 61.2 MB of
    intermediate arrays, ResNet-18's 0.98 times as long and with 984 in place of 1,181 MB at its
    peak (2 cores of an EPYC with AVX-512, jax 0.10.2, median of 20 pairs).
    """
    is_deferred = jax.default_backend() == "cpu"
    return batch_norm(
        x, train=train, name=name, dtype=dtype, is_rectified=True, is_deferred=is_deferred
    )


def batch_norm(
    x: jax.Array,
    *,
    train: bool,
    name: str,
    dtype: DTypeLike,
    is_rectified: bool = False,
    is_deferred: bool = False,
) -> jax.Array | DeferredNorm:
    """The layer behind `norm` and the others; see `BatchNorm` for its options."""
    layer = BatchNorm(
        use_running_average=not train,
        momentum=NORM_MOMENTUM,
        epsilon=NORM_EPSILON,
        dtype=dtype,
        is_rectified=is_rectified,
        is_deferred=is_deferred,
        name=name,
    )
    return layer(x)


def classifier(x: jax.Array | DeferredNorm, num_classes: int, *, dtype: DTypeLike) -> jax.Array:
    """Mean over all positions, then one dense layer: `[B, H, W, C]` to float32 logits `[B, K]`."""
    means = jnp.mean(value(x), axis=(1, 2))
    logits = nn.Dense(num_classes, dtype=dtype, name="classifier")(means)
    return ops.at_least_float32(logits)


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
