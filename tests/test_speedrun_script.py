"""scripts/bench/speedrun.py: which recipe it measures, and its table; configs/speedrun.py."""

from argparse import Namespace
from pathlib import Path

import pytest

from jaxcnn.config import execute, schema
from jaxcnn.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    import speedrun

    return speedrun


def _options(**changes):
    options = {"network": "speedrun", "dtype": "auto", "images": None, "epochs": None}
    return Namespace(**{**options, **changes})


def test_the_whole_recipe_is_that_of_the_configuration(script):
    config = execute.configuration(str(ROOT / "configs" / "speedrun.py"), "")
    config.train.plots = False
    assert script.recipe(_options()) == config
    # A step of the whole decay that the recipe states: 2e-6 for each image, 2,000 images.
    optim = config.optim
    assert optim.head_lr * optim.weight_decay_head == pytest.approx(4e-3)
    assert optim.bias_lr * optim.weight_decay_norm == pytest.approx(4e-3)
    assert (50_000 // config.train.batch_size) * config.train.epochs == 200


def test_a_tiny_try_has_no_more_images_than_asked_for(script):
    config = script.recipe(_options(network="speedrun96", images=300, epochs=1))
    assert (config.dataset.train_split, config.dataset.eval_split) == ("train[:300]", "test[:300]")
    assert (config.train.batch_size, config.train.epochs) == (300, 1)
    assert config.model.name == "speedrun96"
    with pytest.raises(UserError, match="model.dtype='float16' is not allowed"):
        script.recipe(_options(dtype="float16"))


def test_the_stopwatch_stops_before_the_first_step(script, monkeypatch):
    clock = iter([5.0, 12.5])
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(clock))
    watch = script.Stopwatch()
    watch.say("compiling")
    watch.start(epochs=1, steps_per_epoch=1, step=0)
    assert watch.seconds == 7.5


def test_digits_take_the_recipe_with_smaller_batches():
    config = execute.configuration(str(ROOT / "configs" / "speedrun.py"), "digits")
    schema.validate(config)
    assert config.dataset.name == "digits" and config.train.batch_size < 1437
    assert config.optim.head_lr == pytest.approx(0.67 * config.train.batch_size)


def test_the_table_has_a_row_for_each_program(script):
    runs = [
        {"accuracy": a, "accuracy_with_views": a + 0.01, "train_seconds": s, "seconds_before": b}
        for a, s, b in ((0.90, 100.0, 30.0), (0.92, 104.0, 5.0))
    ]
    report = {
        "trainings": {"jaxcnn": runs, "torch": runs[:1]},
        **{"network": "speedrun", "epochs": 8, "images": 50_000, "dtype": "float32"},
        **{"machine": "m", "jax": "1", "data": "d"},
    }
    text = script.table(report)
    assert "| jaxcnn | 2 | 91.00 ± 1.41 | 92.00 ± 1.41 | 102.0 ± 2.8 |" in text
    assert "| torch | 1 | 90.00 | 91.00 | 100.0 |" in text
    assert "before the first step: 30.0 s" in text
