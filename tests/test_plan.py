"""Before the first step: memory, and what --dry_run says."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from conftest import random_dataset

from jaxcnn.config import schema
from jaxcnn.config.settings import Settings
from jaxcnn.errors import UserError
from jaxcnn.models import resnet
from jaxcnn.run.observers import Observer
from jaxcnn.runtime import launch, memory
from jaxcnn.train import fit, plan, remedies
from jaxcnn.train.programs import Programs

ROOT = Path(__file__).parents[1]


@pytest.fixture
def settings(monkeypatch):
    """A configuration whose network compiles quickly."""
    small = resnet.ResNet, {"blocks": (1,), "widths": (8,), "ops": "stock"}
    monkeypatch.setitem(resnet.VARIANTS, "resnet20", small)
    result = schema.default_config()
    result.dataset.name, result.model.name = "noise", "resnet20"
    result.train.batch_size, result.train.eval_batch_size, result.train.epochs = 16, 10, 2
    return result


class Said(Observer):
    """Keeps what is said."""

    def __init__(self):
        """Has heard nothing yet."""
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(settings, tmp_path):
    report = Said()
    settings.train.grad_accum_steps = 2
    plan.dry_run(settings, random_dataset(), tmp_path / "run", report)
    text = "\n".join(report.lines)
    for expected in (
        "devices: 1 x cpu (cpu), 1 process\n",
        "batch: 16 images = 2 micro-batches of 1 devices x 8; evaluation: 10 = 1 x 10",
        "batch norm: global, over 8 images",
        "steps: 2 epochs x 3 = 6, 1 in one call; 0 images are left over",
        "data: on each device",
        "memory of each device: 0.00 GB of",
        "\nstart: ",
    ):
        assert expected in text, expected
    assert not (tmp_path / "run").exists()


def test_the_start_is_told_with_what_it_was_spent_on():
    line = plan.start({"imports": 1.51, "training step": 2.0, "all": 4.0})
    assert line == "start: 4.0 s to the first step: imports 1.5, training step 2.0, other 0.5"


def test_a_dry_run_finds_what_a_run_would(settings, tmp_path):
    (tmp_path / "file").write_text("something else")
    with pytest.raises(UserError, match="exists and is not a run folder"):
        plan.dry_run(settings, random_dataset(), tmp_path, Said())


def test_a_step_that_cannot_fit_is_refused_with_what_would(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 500_000)
    with pytest.raises(UserError) as refused:
        fit.fit(settings, random_dataset(), tmp_path / "run")
    message = str(refused.value)
    assert message.startswith("not enough memory for train.batch_size=16: a step needs about 0.00")
    assert "train.grad_accum_steps=2, train.remat=True, model.dtype=bfloat16" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "drop_rate", "helps"),
    [
        ("resnet18", None, True),
        ("lenet", None, False),
        ("densenet40_k12", None, False),
        ("densenet40_k12", 0.2, True),
    ],
)
def test_recomputing_is_proposed_where_it_helps(name, drop_rate, helps):
    config = schema.default_config()
    config.model.name, config.model.drop_rate = name, drop_rate
    settings = Settings.resolve(config, random_dataset(train=128))
    assert ("train.remat=True" in remedies.remedy(settings, devices=1)) == helps


def test_a_device_that_runs_out_of_memory_is_told_in_one_line(settings, tmp_path, monkeypatch):
    def exhausted(programs, state, call):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(Programs, "train", exhausted)
    with pytest.raises(UserError, match="not enough memory for train.batch_size=16: a step needs"):
        fit.fit(settings, random_dataset(), tmp_path / "run")


def test_an_estimate_has_the_parts_of_the_program():
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    add = jax.jit(lambda state, batch: state + batch.sum(), donate_argnums=0)
    needed = memory.estimate(add.lower(x, x).compile(), batch_bytes=4000, data_bytes=7)
    assert needed.fixed == 4000 + 7 and needed.growing >= 4000


def test_the_largest_batch_is_a_multiple_that_fits():
    needed = memory.Estimate(fixed=100, growing=64 * 10)
    assert memory.largest_batch(needed, 64, 8, available=100 + 30 * 10) == 24
    assert memory.largest_batch(needed, 64, 8, available=50) == 0
    assert memory.largest_batch(needed, 64, 8, available=10_000) == 64


@pytest.mark.slow
@pytest.mark.ci
def test_a_batch_that_does_not_divide_is_refused_on_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxcnn.main", f"--config={ROOT}/configs/lenet.py:digits"]
        + ["--config.train.batch_size=100", "--dry_run"],
        cwd=tmp_path,
        env={**launch.environment(0, 8, False), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "error: train.batch_size=100 does not divide among 8 devices: the nearest that do: "
        "96 or 104"
    )
