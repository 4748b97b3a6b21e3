"""Muon and rates by group: steps against float64 and against PyTorch; what the default compiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.config.schema import OptimConfig
from jaxcnn.train import descent, muon, optim
from jaxcnn.train.decay import weight_decay

SHAPES = {
    "whitening": {"bias": (4,)},
    "conv": {"kernel": (3, 3, 2, 5), "bias": (5,)},
    "wide": {"kernel": (1, 1, 2, 6)},
    "depthwise_conv": {"kernel": (3, 3, 1, 4)},
    "dense": {"kernel": (6, 3)},
    "norm": {"scale": (5,)},
    "classifier": {"kernel": (3, 10), "bias": (10,)},
}


def _tree(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        SHAPES,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def _create(**changes):
    values = {"name": "muon", "peak_lr": 0.24, "momentum": 0.6, "schedule": "linear", **changes}
    config = OptimConfig(**{"weight_decay": 0.0, "warmup_epochs": 0.0, **values})
    return optim.create_optimizer(config, epochs=4, steps_per_epoch=2)


def _trained(optimizer, steps, params=None):
    """Returns the parameters after each of the steps, on gradients of noise."""
    params = _tree(0) if params is None else params
    state = optimizer.tx.init(params)

    @jax.jit
    def step(params, state, grads, number):
        direction, state = optimizer.tx.update(grads, state, params)
        rate = optimizer.learning_rate(number)
        return optimizer.descend(params, direction, rate, number), state

    found = []
    for number in range(steps):
        params, state = step(params, state, _tree(100 + number), jnp.int32(number))
        found.append(params)
    return found


def _near_orthogonal(matrix):
    """Newton and Schulz's quintic iteration by the singular values: each x to ax + bx^3 + cx^5."""
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(matrix)
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return u * values @ v


def _by_hand(steps):
    """The same steps in float64: two optimizers, each with the rates that it has in the recipe."""
    params = jax.tree.map(np.float64, _tree(0))
    buffers = jax.tree.map(np.zeros_like, params)
    for number in range(steps):
        grads, left = jax.tree.map(np.float64, _tree(100 + number)), 1 - number / 8
        for layer, leaves in params.items():
            for name, value in leaves.items():
                is_conv = layer in ("conv", "wide") and name == "kernel"
                momentum, gradient = (0.6 if is_conv else 0.85), grads[layer][name]
                if not is_conv:
                    decay = 0.02 if name != "kernel" else 0.01 if layer == "classifier" else 0.0
                    gradient = gradient + decay * value
                buffer = buffers[layer][name] = momentum * buffers[layer][name] + gradient
                direction = gradient + momentum * buffer
                if is_conv:
                    matrix = direction.reshape(-1, value.shape[-1]).T
                    direction = _near_orthogonal(matrix).T.reshape(value.shape)
                    value = value * np.sqrt(value.shape[-1]) / np.linalg.norm(value)
                    rate = 0.24 * left
                elif layer == "whitening":
                    rate = 0.05 * max(0, 1 - number / 3)
                else:
                    rate = (0.7 if name == "kernel" else 0.05) * left
                leaves[name] = value - rate * direction
    return params


def test_steps_are_those_of_the_recipe_in_float64():
    optimizer = _create(
        head_lr=0.7, bias_lr=0.05, whiten_bias_epochs=1.5, sgd_momentum=0.85,
        weight_decay_head=0.01, weight_decay_norm=0.02,
    )  # fmt: skip
    found = _trained(optimizer, 5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found[4], _by_hand(5)
    )
    # Three of these steps are 1.5 epochs: then the bias of the whitening layer stays to the bit.
    biases = [params["whitening"]["bias"] for params in found]
    assert not np.array_equal(biases[1], biases[2])
    np.testing.assert_array_equal(biases[2], biases[4])


def test_a_direction_of_muon_is_nearly_orthogonal_and_knows_no_scale():
    for shape in ((3, 3, 2, 5), (1, 1, 3, 8)):
        grad = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        found = muon.orthogonalized(grad)
        matrix = np.asarray(found).reshape(-1, shape[-1])
        values = np.linalg.svd(matrix, compute_uv=False)
        assert (values > 0.4).all() and (values < 1.3).all()
        np.testing.assert_allclose(muon.orthogonalized(1e-4 * grad), found, atol=1e-5)
    np.testing.assert_array_equal(muon.orthogonalized(np.zeros(shape)), np.zeros(shape))


def test_a_kernel_is_scaled_before_it_is_moved():
    params = _tree(0)
    zero = jax.tree.map(np.zeros_like, params)
    found = _create().descend(params, zero, jnp.float32(0.1), jnp.int32(0))
    for layer, filters in (("conv", 5), ("wide", 6)):
        kernel, before = found[layer]["kernel"], params[layer]["kernel"]
        assert np.linalg.norm(kernel) == pytest.approx(filters**0.5)
        np.testing.assert_allclose(kernel / kernel[0, 0, 0, 0], before / before[0, 0, 0, 0], 1e-4)
    for layer in ("depthwise_conv", "dense", "classifier"):
        np.testing.assert_array_equal(found[layer]["kernel"], params[layer]["kernel"])


def test_sgd_has_rates_of_groups_too():
    plain = _trained(_create(name="sgd", peak_lr=0.1), 1)[0]
    found = _trained(_create(name="sgd", peak_lr=0.1, head_lr=0.3, bias_lr=0.2), 1)[0]
    before = _tree(0)
    factors = jax.tree.map(lambda a, b, c: ((a - c) / (b - c)).mean().item(), found, plain, before)
    expected = jax.tree.map(lambda _: 1.0, factors)
    expected["classifier"] = {"kernel": 3.0, "bias": 2.0}
    for layer in ("whitening", "conv"):
        expected[layer]["bias"] = 2.0
    expected["norm"]["scale"] = 2.0
    jax.tree.map(lambda a, b: pytest.approx(b, rel=1e-3) == a or pytest.fail(), factors, expected)


def test_without_rates_of_their_own_a_step_is_what_it_was():
    for name in ("sgd", "adamw"):
        assert _create(name=name).descend is descent.descend
    for change in ({"name": "muon"}, {"name": "sgd", "bias_lr": 0.1}, {"whiten_bias_epochs": 1.0}):
        assert _create(**change).descend is not descent.descend

    def before(params, direction, rate, step):
        return optax.apply_updates(params, jax.tree.map(lambda d: -rate * d, direction))

    arguments = (_tree(0), _tree(1), jnp.float32(0.1), jnp.int32(3))
    texts = [
        jax.jit(functools.partial(function)).lower(*arguments).as_text()
        for function in (descent.descend, before)
    ]
    assert texts[0].replace("descend", "before") == texts[1]


def _original(torch, grads, params):
    """Muon as its authors' code computes it, in float32: the momentum is in PyTorch's order."""
    buffers = {name: torch.zeros_like(value) for name, value in params.items()}
    for number, step in enumerate(grads):
        for name, value in params.items():
            buffers[name] = 0.6 * buffers[name] + step[name]
            x = (step[name] + 0.6 * buffers[name]).reshape(len(value), -1)
            is_tall = x.size(0) > x.size(1)
            x = x.T if is_tall else x
            x = x / (x.norm() + 1e-7)
            for _ in range(3):
                gram = x @ x.T
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            x = (x.T if is_tall else x).view(value.shape)
            params[name] = value * len(value) ** 0.5 / value.norm() - 0.24 * (1 - number / 8) * x
    return params


def test_steps_are_those_of_pytorch():
    torch = pytest.importorskip("torch")

    def kernels(tree):
        return {
            name: torch.from_numpy(tree[name]["kernel"].transpose(3, 2, 0, 1).copy())
            for name in ("conv", "wide")
        }

    theirs = _original(torch, [kernels(_tree(100 + n)) for n in range(5)], kernels(_tree(0)))
    ours = _trained(_create(), 5)[-1]
    for name, kernel in theirs.items():
        found = np.asarray(ours[name]["kernel"]).transpose(3, 2, 0, 1)
        np.testing.assert_allclose(found, kernel.numpy(), atol=1e-4)


def test_the_whitening_bias_decays_as_norms_do():
    params = {"whitening": {"bias": np.ones(2)}, "norm": {"bias": np.ones(2)}}
    tx = weight_decay(OptimConfig(weight_decay_norm=0.5))
    found, _ = tx.update(jax.tree.map(np.zeros_like, params), tx.init(params), params)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, [0.5, 0.5]), found)
