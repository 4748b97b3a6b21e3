"""scripts/checks/torch_training.py: Welch's comparison, and PyTorch's step against ours."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

from jaxcnn.config import schema
from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset, Split
from jaxcnn.errors import UserError
from jaxcnn.train import optim
from jaxcnn.train.step import Objective, create_train_state, train_step

SCRIPTS = Path(__file__).parents[1] / "scripts" / "checks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import torch_training

    return torch_training


def test_the_standard_error_and_the_degrees_of_freedom_are_those_of_welchs_test(script):
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.64, 0.010, 8), rng.normal(0.645, 0.003, 5)
    found = script.compared(ours.tolist(), theirs.tolist())
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    assert found["difference"] / found["standard_error"] == pytest.approx(expected.statistic)
    assert found["degrees_of_freedom"] == pytest.approx(expected.df)


@pytest.mark.parametrize(
    ("shift", "spread", "within"),
    [(0.0, 0.01, True), (0.005, 0.01, True), (0.02, 0.001, False), (0.005, 0.0001, False),
     (0.02, 0.05, False)],
)  # fmt: skip
def test_two_standard_errors_and_a_point_are_the_limits(script, shift, spread, within):
    ours = [0.6 + spread * sign for sign in (-1, 1, -1, 1)]
    found = script.compared(ours, [value + shift for value in ours])
    # 4 values at +-s have the variance 4/3 s^2: the error of the difference is s sqrt(2/3).
    assert found["standard_error"] == pytest.approx(spread * math.sqrt(2 / 3))
    assert found["within"] is within


def test_a_single_seed_decides_nothing(script):
    assert script.compared([0.6], [0.7, 0.7])["within"] is None


def test_a_recipe_that_the_other_loop_does_not_know_is_refused(script):
    config = schema.default_config()
    script.check_understood(config)
    config.optim.clip_norm = 1.0
    with pytest.raises(UserError, match="optim.clip_norm=1.0 is not part of the comparison"):
        script.check_understood(config)
    assert {key for key, _ in schema.walk()} >= script.UNDERSTOOD


def test_the_table_has_a_row_for_each_network(script):
    recipe = {"train": {"epochs": 10}, "dataset": {"fingerprint": "cifar10 modified"}}
    row = {**script.compared([0.64, 0.66], [0.65, 0.66]), "recipe": recipe}
    text = script.table({"networks": {"lenet": row}, "machine": "m", "jax": "1", "torch": "t"})
    assert "| lenet | 10 | 65.00 ± 1.41 | 2 | 65.50 ± 0.71 | 2 | -0.50 | 1.12 |" in text
    assert text.endswith("\n\nm, jax 1, t; data: cifar10 modified (JPEG copy).")


def _settings(name):
    config = schema.default_config()
    config.dataset.name, config.model.name = "noise", name
    config.augment.crop_padding, config.augment.flip = 0, False
    config.train.batch_size, config.train.epochs = 128, 1
    config.optim.schedule, config.optim.warmup_epochs = "constant", 0.0
    # The last norms have one value of each image. Where these differ little, as with few images or
    # with noise, they multiply rounding errors a hundredfold a step: PyTorch's own two memory
    # formats then differ as much. So: many images, unlike each other, and few steps.
    config.optim.peak_lr = 0.01
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (256, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    split = Split(images, rng.integers(0, 10, 256).astype(np.int32))
    dataset = Dataset(split, split, tuple("abcdefghij"), "noise")
    return Settings.resolve(config, dataset), dataset


@pytest.mark.parametrize("name", ["lenet", "mobilenet"])
def test_steps_of_both_loops_are_the_same(name, monkeypatch):
    """From the same values on the same batches in the same order: two steps, then evaluation."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import torch_loop

    settings, dataset = _settings(name)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(torch_loop.TORCH_SEEDS))
    found = torch_loop.train(settings, dataset, seed=0)
    optimizer = optim.create_optimizer(settings.optim, epochs=1, steps_per_epoch=2)
    model = settings.create_model()
    state = create_train_state(
        jax.random.key(torch_loop.TORCH_SEEDS),
        model=model, optimizer=optimizer, image_shape=(32, 32, 3),
    )  # fmt: skip
    step = jax.jit(
        lambda state, images, labels: train_step(
            state, jax.random.key(0), images, labels,
            objective=Objective(model, settings.pixel_stats, settings.train.label_smoothing),
            optimizer=optimizer, augment=lambda key, images: images,
        )
    )  # fmt: skip
    for rows in order.numpy().reshape(2, 128):
        state = step(state, dataset.train.images[rows], dataset.train.labels[rows])
    ours = float(state.sums["loss"] / state.sums["count"])
    assert found["train_loss"] == pytest.approx(ours, rel=1e-3)
    # A random number that augmentation of no effect would draw must not shift the order.
    assert found["epoch"] == 1


def test_crops_and_flips_are_all_equally_likely(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import torch_loop

    image = torch.arange(1, 10, dtype=torch.uint8).reshape(1, 1, 3, 3).expand(9000, 1, 3, 3)
    cropped = torch_loop.augmented(image, 1, False, torch.Generator().manual_seed(0))
    # The pixel in the middle says which of the nine windows it is.
    counts = torch.bincount(cropped[:, 0, 1, 1].long(), minlength=10)[1:]
    assert (counts > 850).all() and (counts < 1150).all()
    corner = cropped[cropped[:, 0, 1, 1] == 1][0, 0]
    assert corner.tolist() == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    flipped = torch_loop.augmented(image, 0, True, torch.Generator().manual_seed(0))
    mirrored = (flipped[:, 0, 0] == torch.tensor([3, 2, 1])).all(1)
    assert 0.47 < mirrored.float().mean() < 0.53
    assert (flipped[~mirrored] == image[0]).all()
