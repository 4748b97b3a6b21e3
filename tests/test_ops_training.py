"""Training with the fast operations follows training with the stock ones."""

import contextlib
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxcnn import ops
from jaxcnn.models.resnet import ResNet


def losses(images: np.ndarray, labels: np.ndarray, steps: int, ops: str) -> np.ndarray:
    """The training loss of each step of SGD on a small residual network.

    Training multiplies any rounding difference, the faster the higher the rate and the smaller the
    batch: at 0.01 and 16 images the two runs are 5e-3 apart after 100 steps.
    """
    model = ResNet(blocks=(1, 1), widths=(32, 32), ops=ops)
    variables = model.init(jax.random.key(0), images[:1], train=False)
    optimizer = optax.sgd(0.003, momentum=0.9)

    def step(state: Any, index: jax.Array) -> Any:
        params, stats, momentum = state
        rows = (index * 64 + np.arange(64)) % len(images)
        x, y = jax.numpy.asarray(images)[rows], jax.numpy.asarray(labels)[rows]

        def loss(params: Any) -> Any:
            logits, updated = model.apply(
                {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
            )
            mean = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return mean, updated["batch_stats"]

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, momentum = optimizer.update(grads, momentum, params)
        return (optax.apply_updates(params, updates), stats, momentum), value

    params = variables["params"]
    state = (params, variables["batch_stats"], optimizer.init(params))
    run = jax.jit(step)
    values = []
    for index in range(steps):
        state, value = run(state, index)
        values.append(float(value))
    return np.asarray(values)


@pytest.mark.slow
@pytest.mark.parametrize("may_call_onednn", [False, True])
def test_the_loss_of_100_steps_is_that_of_the_stock_operations(may_call_onednn: bool) -> None:
    if may_call_onednn and not ops.has_onednn():
        pytest.skip("this jaxlib has no oneDNN that was tested")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 512)
    means = rng.normal(size=(10, 16, 16, 3))
    images = (means[labels] + rng.normal(size=(512, 16, 16, 3))).astype(np.float32)
    with ops.uncached() if may_call_onednn else contextlib.nullcontext():
        ours = losses(images, labels, 100, "fast")
    stock = losses(images, labels, 100, "stock")
    assert stock[-1] < 0.8 * stock[0]
    assert not np.array_equal(ours, stock)  # The stock path was really taken.
    np.testing.assert_allclose(ours, stock, atol=1e-3)
