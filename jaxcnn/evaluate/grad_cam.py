"""Where does a network look: the part of an image that speaks for a class (Grad-CAM).

Selvaraju et al. 2017, arXiv:1610.02391, sec. 3, eq. 1 and 2. The networks need no change: an
interceptor of flax's adds zeros to a feature map, and the gradient of those zeros is the map's.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxcnn.data import augment
from jaxcnn.errors import UserError
from jaxcnn.evaluate.classifier import BatchProgram, Network

SMALLEST = 4
"""Height and width that a feature map has at least to be looked at. The study's MobileNet ends in a
map of a single position, which cannot say where anything is."""


class Layer(NamedTuple):
    """The feature map that is looked at: the last one of at least 4x4 positions.

    Attributes:
        name: Path of the module that gives it, such as "stage4_block2".
        shape: (height, width, channels).
        place: Its number among all feature maps, in the order in which they become known.
    """

    name: str
    shape: tuple[int, int, int]
    place: int


def layer(module: nn.Module, variables: Any, image_shape: tuple[int, int, int]) -> Layer:
    """Returns the feature map that `grad_cam` looks at; traces the network, computes nothing.

    Args:
        module: As for `grad_cam`.
        variables: Likewise.
        image_shape: (H, W, C).

    Raises:
        UserError: If no feature map has 4x4 positions.
    """
    found: list[Layer] = []

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        if _is_map(result, context):
            found.append(Layer("/".join(context.module.path), result.shape[1:], len(found)))
        return result

    def apply(variables: Any, images: jax.Array) -> Any:
        with nn.intercept_methods(note):
            return _unwrapped(module).apply(variables, images, train=False)

    jax.eval_shape(apply, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    large = [each for each in found if min(each.shape[:2]) >= SMALLEST]
    if not large:
        height, width, _ = image_shape
        raise UserError(
            f"images of {height}x{width} pixels have no feature map of {SMALLEST}x{SMALLEST} "
            "positions in this network, which Grad-CAM needs: choose larger images"
        )
    return large[-1]


def grad_cam(module: nn.Module, variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns how much each pixel's surroundings speak for a class. Pure, can be jitted.

    The map is that of `layer`. Its channels, rectified as in the paper's fig. 2, are weighted with
    the mean gradient of the class's logit (eq. 1), added and rectified (eq. 2), enlarged to the
    size of the image by bilinear interpolation and divided by their maximum.

    Args:
        module: A network whose `apply(variables, images, train=False)` gives logits `[B, K]`, and
            whose layers are modules or ReLU right behind them.
        variables: {"params", "batch_stats"}.
        images: What the network takes, float `[B, H, W, C]`: normalized, not 0..255.
        classes: int `[B]`, the class whose map is wanted, for each image.

    Returns:
        float32 `[B, H, W]`, 0..1; 1 at the place that speaks most for the class, and 0 all over
        if no place does.

    Raises:
        UserError: As `layer`.
    """
    module = _unwrapped(module)
    _, height, width, channels = images.shape
    chosen = layer(module, variables, (height, width, channels))

    def score(zeros: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen: list[jax.Array] = []
        count = 0

        def add(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            nonlocal count
            result = call(*args, **kwargs)
            if _is_map(result, context):
                if count == chosen.place:
                    seen.append(result)
                    result = result + zeros.astype(result.dtype)
                count += 1
            return result

        with nn.intercept_methods(add):
            logits: Any = module.apply(variables, images, train=False)
        # No image has a part in another one's logits, so one gradient of the sum is that of each.
        return jnp.take_along_axis(logits, classes[:, None], 1).sum(), seen[0]

    zeros = jnp.zeros((len(images), *chosen.shape), jnp.float32)
    gradients, features = jax.grad(score, has_aux=True)(zeros)
    weights = gradients.mean((1, 2), keepdims=True)
    cam = nn.relu((weights * nn.relu(features.astype(jnp.float32))).sum(-1))
    cam = jax.image.resize(cam, (len(images), height, width), "bilinear")
    peak = cam.max((1, 2), keepdims=True)
    return jnp.where(peak > 0, cam / jnp.where(peak > 0, peak, 1.0), 0.0)


class GradCam:
    """`grad_cam` of a trained network with its normalization, compiled for batches of one size.

    Attributes:
        layer: The feature map that it looks at.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        """Compiles for `batch_size` images on the first device.

        Raises:
            UserError: As `layer`.
        """
        module, variables, stats, image_shape = network[:4]
        self.layer = layer(module, variables, image_shape)

        def maps(variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
            return grad_cam(module, variables, augment.normalize(images, stats), classes)

        images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8)
        classes = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        self._maps = BatchProgram(maps, variables, images, classes, onednn=network.onednn)

    def maps(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Returns float32 `[N, H, W]`, 0..1, for uint8 `[N, H, W, C]` and classes int `[N]`."""
        return self._maps(images, np.asarray(classes, np.int32))


def _is_map(result: Any, context: nn.module.InterceptorContext) -> bool:
    """Whether a call of a module gave a feature map, `[B, H, W, C]`."""
    # Flax also intercepts `setup` and methods that networks call on their parts.
    return context.method_name == "__call__" and getattr(result, "ndim", 0) == 4


def _unwrapped(module: nn.Module) -> nn.Module:
    """Returns the same network without `remat`, whose inner arrays nobody outside can see."""
    return module.clone(remat=False) if getattr(module, "remat", False) else module
