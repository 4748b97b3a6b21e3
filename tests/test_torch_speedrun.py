"""The speedrun's recipe here and in PyTorch: the same steps in float64; whitening; views."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.config import execute, schema
from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset, Split
from jaxcnn.models import speedrun, whitening
from jaxcnn.train import optim, recipe
from jaxcnn.train.gradients import loss_and_grads

ROOT = Path(__file__).parents[1]
BATCH, STEPS = 16, 3

torch = pytest.importorskip("torch")


@pytest.fixture
def peer(monkeypatch):
    """scripts/bench/torch_speedrun.py."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    import torch_speedrun

    return torch_speedrun


def _settings(monkeypatch, is_residual):
    """The recipe with small widths, and rates and fractions that float32 holds exactly."""
    small = speedrun.Speedrun, {"widths": (8, 16), "is_residual": is_residual, "ops": "stock"}
    monkeypatch.setitem(speedrun.VARIANTS, "speedrun", small)
    config = execute.configuration(str(ROOT / "configs" / "speedrun.py"), "", "")
    config.dataset.name, config.train.batch_size, config.train.epochs = "noise", BATCH, 2
    config.optim.peak_lr, config.optim.head_lr, config.optim.bias_lr = 0.25, 8.0, 0.5
    config.optim.weight_decay_head, config.optim.weight_decay_norm = 0.25, 0.125
    config.optim.whiten_bias_epochs = 0.5  # of four steps an epoch
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * BATCH, 4, 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    split = Split(images, rng.integers(0, 10, len(images)).astype(np.int32))
    dataset = Dataset(split, split, tuple("abcdefghij"), "noise")
    schema.validate(config)
    return Settings.resolve(config, dataset), dataset


def _copied(variables, network):
    """Gives the PyTorch network the flax variables, kernels as OIHW."""

    def put(parameter, array):
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, (0,))
        parameter.data.copy_(torch.from_numpy(np.array(array).transpose(order).copy()))

    params, fixed = variables["params"], variables["batch_stats"]["whitening"]
    put(network.whitening.weight, fixed["kernel"])
    put(network.whitening.bias, params["whitening"]["bias"])
    put(network.head.weight, params["classifier"]["kernel"])
    for number, group in enumerate(network.groups, start=1):
        for index, (conv, norm) in enumerate(zip(group.convs, group.norms, strict=True), start=1):
            put(conv.weight, params[f"group{number}"][f"conv{index}"]["kernel"])
            put(norm.bias, params[f"group{number}"][f"norm{index}"]["bias"])


@pytest.mark.parametrize("is_residual", [False, True])
def test_steps_of_both_are_the_same(peer, monkeypatch, is_residual):
    """Three steps, and the loss of a fourth, on the same images from the same values."""
    settings, dataset = _settings(monkeypatch, is_residual)
    images = (dataset.train.images / 255 - 0.5) / 0.25
    batches = images.reshape(4, BATCH, *images.shape[1:])
    labels = dataset.train.labels.reshape(4, BATCH)
    with jax.enable_x64(True):
        model = settings.create_model().clone(dtype=jnp.float64)
        variables = model.init(jax.random.key(0), images[:1], train=False)
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        optimizer = optim.create_optimizer(settings.optim, epochs=2, steps_per_epoch=4)

        @jax.jit
        def step(params, batch_stats, state, number, images, labels):
            outcome = loss_and_grads(
                params, batch_stats, images, labels, jax.random.key(0),
                model=model, preprocess=lambda x: x,
                loss=lambda logits, labels: recipe.cross_entropy(
                    logits, labels, settings.train.label_smoothing
                ),
            )  # fmt: skip
            direction, state = optimizer.tx.update(outcome.grads, state, params)
            rate = optimizer.learning_rate(number)
            params = optimizer.descend(params, direction, rate, number)
            return params, outcome.batch_stats, state, jnp.mean(outcome.losses)

        params, batch_stats = variables["params"], variables["batch_stats"]
        state, ours = optimizer.tx.init(params), []
        for number in range(4):
            params, batch_stats, state, loss = step(
                params, batch_stats, state, jnp.int32(number), batches[number], labels[number]
            )
            ours.append(float(loss))
        logits = np.asarray(
            model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)
        )
        assert logits.dtype == np.float64
    network = peer.Speedrun((8, 16), settings.model.bn_momentum, is_residual).double()
    _copied(variables, network)
    theirs, optimizer = [], peer.Optimizer(network, settings, total=8, per_epoch=4)
    channels_first = torch.from_numpy(batches.transpose(0, 1, 4, 2, 3).copy())
    for number in range(4):
        truth = torch.from_numpy(labels[number].astype(np.int64))
        loss = peer.loss_of(network, channels_first[number], truth, settings)
        loss.backward()
        optimizer.step(number)
        theirs.append(loss.item() / BATCH)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert ours[3] != pytest.approx(ours[0], rel=1e-3)
    # PyTorch's running variances are those of a sample, so only the weights are compared.
    bias = network.whitening.bias.detach().numpy()
    np.testing.assert_allclose(params["whitening"]["bias"], bias, rtol=1e-9)
    head = network.head.weight.detach().numpy().T
    np.testing.assert_allclose(params["classifier"]["kernel"], head, rtol=1e-7)


def test_both_whiten_alike(peer, monkeypatch):
    settings, dataset = _settings(monkeypatch, False)
    images = np.random.default_rng(1).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    images[..., 1:] = images[..., 1:] // 2 + images[..., :1] // 2
    ours = whitening.kernel_of(images, settings.pixel_stats)
    network = peer.Speedrun((8,), 0.6, False)
    network.whiten(peer.normalized(images, settings))
    theirs = network.whitening.weight.detach().numpy().transpose(2, 3, 1, 0)
    # By rising eigenvalue there, and with either sign.
    a, b = ours.reshape(12, 24)[:, :12], theirs.reshape(12, 24)[:, 11::-1]
    np.testing.assert_allclose(np.abs((a * b).sum(0)), (a * a).sum(0), rtol=1e-3)


def test_the_peer_trains_and_evaluates(peer, monkeypatch):
    settings, dataset = _settings(monkeypatch, False)
    found = peer.train(settings, dataset, seed=0)
    assert 0 <= found["accuracy"] <= 1 and 0 <= found["accuracy_with_views"] <= 1
    assert found == {
        **peer.train(settings, dataset, seed=0),
        "train_seconds": found["train_seconds"],
    }
    source = peer.epochs(torch.arange(48.0).reshape(1, 3, 4, 4), 0, seed=0)
    first, second, third = (next(source) for _ in range(3))
    assert torch.equal(first.flip(3), second) and torch.equal(first, third)
