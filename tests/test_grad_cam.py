"""Grad-CAM: the definition by hand, class activation maps, and the map that each network gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL, init, random_images
from flax import linen as nn

from jaxcnn import models
from jaxcnn.data.augment import PixelStats, normalize
from jaxcnn.errors import UserError
from jaxcnn.evaluate.classifier import Network
from jaxcnn.evaluate.grad_cam import GradCam, grad_cam, layer
from jaxcnn.runtime.compilation import init_compiler_options

STATS = PixelStats((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Linear(nn.Module):
    """A 1x1 convolution, the mean over all positions and a dense layer: logits are linear."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(2, (1, 1), use_bias=False, name="conv")(images)
        return nn.Dense(2, use_bias=False, name="dense")(x.mean((1, 2)))


LINEAR = {
    "params": {
        "conv": {"kernel": jnp.array([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 1, 2, 2)},
        # Channel 0 is for class 0; class 1 wants channel 1 and dislikes channel 0.
        "dense": {"kernel": jnp.array([[3.0, -1.0], [0.0, 2.0]])},
    }
}


def _variables(name, size=16):
    return init(SMALL[name], jnp.zeros((1, size, size, 3)))


def _maps(model, variables, images, classes):
    """Returns `grad_cam`, compiled as quickly as can be."""
    program = jax.jit(
        lambda *arrays: grad_cam(model, *arrays), compiler_options=init_compiler_options()
    )
    return program(variables, images, jnp.asarray(classes))


def _scaled(cam, size):
    """Returns maps float [B, h, w], at least 0, at `size`, with a maximum of 1 where one is."""
    cam = np.asarray(jax.image.resize(jnp.asarray(cam), (len(cam), size, size), "bilinear"))
    return cam / np.maximum(cam.max((1, 2), keepdims=True), 1e-12)


def test_the_map_of_a_linear_network_is_that_computed_by_hand():
    image = np.zeros((4, 4, 2), np.float32)
    image[0, 0] = [2, 0]  # 3 * 2 for class 0, -1 * 2 for class 1
    image[1, 2] = [1, 4]  # 3 * 1 for class 0, 2 * 4 - 1 for class 1
    image[3, 3] = [-5, 0]  # rectified: for no class
    maps = _maps(Linear(), LINEAR, np.array([image, image]), [0, 1])
    expected = np.zeros((2, 4, 4), np.float32)
    expected[0, 0, 0], expected[0, 1, 2] = 1, 0.5
    expected[1, 1, 2] = 1
    np.testing.assert_allclose(maps, expected, rtol=1e-6)


def test_a_map_that_speaks_for_nothing_is_zero():
    image = np.zeros((1, 4, 4, 2), np.float32)
    image[0, 1, 1, 0] = 2
    maps = _maps(Linear(), LINEAR, image, [1])
    np.testing.assert_array_equal(maps, np.zeros((1, 4, 4)))


@pytest.mark.parametrize("name", ["resnet", "densenet"])
def test_where_a_mean_and_a_dense_layer_follow_it_is_the_class_activation_map(name):
    """Section 3.1 of the paper: the weights are then those of the classifier."""
    model, variables = SMALL[name], _variables(name)
    images = normalize(jnp.asarray(random_images(10)), STATS)
    chosen, classes = layer(model, variables, (16, 16, 3)), np.arange(10)
    apply = jax.jit(
        lambda *arrays: model.apply(*arrays, train=False, capture_intermediates=True)[1],
        compiler_options=init_compiler_options(),
    )
    (features,) = apply(variables, images)["intermediates"][chosen.name]["__call__"]
    kernel = variables["params"]["classifier"]["kernel"]
    cam = np.maximum(np.einsum("bhwk,kb->bhw", features, kernel), 0)
    # A block that is computed again in the backward pass hides its arrays: it must not matter.
    found = _maps(model.clone(remat=True), variables, images, classes)
    assert (cam.max((1, 2)) > 0).sum() > 4
    np.testing.assert_allclose(found, _scaled(cam, 16), atol=1e-4)


@pytest.mark.parametrize("name", ["lenet", "mobilenet"])
def test_a_channels_weight_is_what_the_logit_gains_by_raising_it(name):
    """The weights by differences rather than by derivatives, in a network that goes on behind."""
    model, variables = SMALL[name], _variables(name, size=32)
    images = normalize(jnp.asarray(random_images(1, size=32)), STATS)
    chosen = layer(model, variables, (32, 32, 3))

    @functools.partial(jax.jit, compiler_options=init_compiler_options())
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def changed(variables, step):
        """Returns the logits, [K], and the map, with each channel raised by its `step`."""
        seen = []

        def add(call, args, kwargs, context):
            result = call(*args, **kwargs)
            if context.method_name == "__call__" and "/".join(context.module.path) == chosen.name:
                seen.append(result)
                return result + step.reshape(1, 1, 1, -1)
            return result

        with nn.intercept_methods(add):
            return model.apply(variables, images, train=False)[0], seen[0]

    small, channels = 1e-3, chosen.shape[-1]
    steps = small * jnp.concatenate([jnp.eye(channels), -jnp.eye(channels)])
    logits, features = changed(variables, steps)
    weights = logits[:channels] - logits[channels:]
    cam = np.maximum(np.einsum("hwc,ck->khw", np.maximum(features[0, 0], 0), weights), 0)
    found = _maps(model, variables, np.repeat(images, 10, 0), np.arange(10))
    assert found.dtype == jnp.float32 and (cam.max((1, 2)) > 0).sum() > 4
    np.testing.assert_allclose(found, _scaled(cam, 32), atol=0.05)


@pytest.mark.parametrize(
    ("network", "name", "shape"),
    [
        ("lenet", "conv2", (10, 10, 16)),
        ("resnet20", "stage3_block3", (8, 8, 64)),
        ("mobilenet", "block5/pointwise_norm", (4, 4, 256)),  # behind it, 2x2 and a single position
    ],
)
def test_the_last_map_of_at_least_four_by_four_is_looked_at(network, name, shape):
    model = models.create(network, ops="stock")
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    init = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    assert layer(model, init, (32, 32, 3))[:2] == (name, shape)


def test_images_too_small_for_any_map_are_refused():
    with pytest.raises(UserError, match="images of 3x5 pixels have no feature map of 4x4"):
        layer(Linear(), LINEAR, (3, 5, 2))


def test_stored_images_in_batches_give_what_all_give_at_once():
    model, variables = SMALL["lenet"], _variables("lenet")
    images, classes = random_images(5), np.array([0, 3, 3, 9, 1])
    compiled = GradCam(Network(model, variables, STATS, (16, 16, 3)), 2)
    maps = compiled.maps(images, classes)
    assert compiled.layer.name == "conv1" and maps.dtype == np.float32
    at_once = _maps(model, variables, normalize(jnp.asarray(images), STATS), classes)
    np.testing.assert_allclose(maps, at_once, atol=1e-4)
    assert maps.min() == 0 and (maps.max((1, 2)) == 1).any()
