"""What holds for every test: strict JAX, the CPU, and the small networks and data they share."""

import copy
import gc
import json
import os
import sys
from pathlib import Path
from unittest import mock

import jaxlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Half of the time of all tests is LLVM's optimizations and XLA's newer emitters of loops, which
# 0.12 cannot do without. XLA's own optimizations, which decide what is fused, kept and exchanged,
# stay. `.ci/run` sets XLA_FLAGS to nothing for some tests of operations.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * jaxlib.__version__.startswith(("0.10.", "0.11.")),
)

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from flax import linen as nn

from jaxcnn.config import schema
from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset, Split
from jaxcnn.models.densenet import DenseNet
from jaxcnn.models.lenet import LeNet
from jaxcnn.models.mobilenet import MobileNet
from jaxcnn.models.resnet import ResNet
from jaxcnn.models.speedrun import Speedrun
from jaxcnn.ops.conv import conditions
from jaxcnn.runtime import memory
from jaxcnn.runtime.compilation import init_compiler_options
from jaxcnn.train import fit

jax.config.update("jax_numpy_rank_promotion", "raise")

# Traced programs are many objects that live on: to look through all of them often is in vain.
gc.set_threshold(100_000, 20, 50)

# One small network of each kind of block. Stock operations compile several times faster: use them
# for tests of what is built from layers; tests/test_ops*.py show that ours give the same numbers,
# and the tests of the command line train with them.
SMALL_FAST: dict[str, nn.Module] = {
    "lenet": LeNet(),
    "resnet": ResNet(blocks=(1, 1), widths=(8, 16)),
    "resnet_padded": ResNet(blocks=(1, 1), widths=(8, 16), shortcut="padded"),
    "resnet_bottleneck": ResNet(blocks=(1, 1), widths=(4, 8), bottleneck=True),
    "resnet_plain": ResNet(blocks=(1, 1), widths=(8, 16), plain=True),
    "densenet": DenseNet(blocks=(2, 2), growth_rate=4),
    "densenet_without_bottleneck": DenseNet(blocks=(2, 2), growth_rate=4, bn_size=0),
    "mobilenet": MobileNet(blocks=((16, 1), (32, 2)), stem_strides=2),
    "speedrun": Speedrun(widths=(8, 16), is_residual=True),
}
SMALL = {name: model.clone(ops="stock") for name, model in SMALL_FAST.items()}
FAMILIES = ("lenet", "resnet", "densenet", "mobilenet", "speedrun")


def random_images(count: int, size: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Returns uint8 `[count, size, size, channels]`."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def random_dataset(train: int = 48, evaluation: int = 20, size: int = 16) -> Dataset:
    """Returns a data set of noise with 10 classes."""
    rng = np.random.default_rng(1)
    images = random_images(train + evaluation, size)
    labels = rng.integers(0, 10, train + evaluation).astype(np.int32)
    return Dataset(
        train=Split(images[:train], labels[:train]),
        eval=Split(images[train:], labels[train:]),
        class_names=tuple("abcdefghij"),
        fingerprint="noise",
    )


def small_settings(dataset: Dataset, **train) -> Settings:
    """Returns settings for batches of 8 of `dataset`; `train` changes values of that section.

    `seed` and `batch_norm` belong to other sections and are taken, too.
    """
    config = schema.default_config()
    config.dataset.name = "noise"
    config.seed = train.pop("seed", 0)
    config.model.batch_norm = train.pop("batch_norm", "global")
    config.augment.crop_padding = 2
    config.train.update({"batch_size": 8, "eval_batch_size": 10, **train})
    return Settings.resolve(config, dataset)


@pytest.fixture(scope="module")
def winograd_for_few_images():
    """Winograd's algorithm where the kernels' transforms take longer than it saves, too."""
    with mock.patch.object(conditions, "WINOGRAD_LEAST_SAVED", 0):
        yield


# Keys of the section `train` that are no part of a program.
_AROUND = ("plots", "tensorboard", "log_every_steps", "checkpoint_minutes", "keep_checkpoints",
           "keep_best", "patience")  # fmt: skip


def share_programs(patch: pytest.MonkeyPatch) -> None:
    """Has trainings with equal settings and data share what is compiled, until `patch` is undone.

    Tracing, lowering and reading the cache take most of a short training, however often it is begun
    or continued. Programs keep nothing of a training.
    """
    compile_programs, known = fit.compile_programs, {}

    def shared(settings, dataset, mesh):
        content = settings.to_json()
        for name in _AROUND:
            del content["train"][name]
        for name in ("train_split", "eval_split"):
            del content["dataset"][name]
        pixels = [array.tobytes() for split in (dataset.train, dataset.eval) for array in split]
        key = json.dumps(content), *pixels
        if key not in known:
            known[key] = compile_programs(settings, dataset, mesh)
        programs = copy.copy(known[key])
        programs.settings = settings
        return programs

    patch.setattr(fit, "compile_programs", shared)


def init(model: nn.Module, images, seed: int = 0):
    """Returns the network's variables, compiled as quickly as can be."""
    program = jax.jit(
        lambda key: model.init(key, images, train=False), compiler_options=init_compiler_options()
    )
    return program(jax.random.key(seed))


# Every member of a family is tested by `.ci/run`; these stand for theirs in the fast suite.
DEEP = {
    "resnet34", "resnet101", "resnet152", "resnet32", "resnet44", "resnet110", "plain32", "plain44",
    "plain56", "plain110", "densenet121", "densenet161", "densenet169", "densenet201", "resnet50",
}  # fmt: skip


def all_variants(*names: str) -> list:
    """Returns parameters for networks, the deep ones marked slow and ci."""
    deep = [pytest.mark.slow, pytest.mark.ci]
    return [pytest.param(name, marks=deep if name in DEEP else []) for name in names]


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory) -> Path:
    """Where compiled programs are kept: one folder for all workers of a session.

    `JAXCNN_TEST_CACHE` names a folder that several sessions share.
    """
    if given := os.environ.get("JAXCNN_TEST_CACHE"):
        return Path(given)
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "xla"


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(cache_folder):
    """Compiles each program once per session, however many tests build it."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_dir", str(cache_folder))


release_compile_memory = memory.release_compile_memory


@pytest.fixture(scope="session", autouse=True)
def compile_memory():
    """Keeps what a training in this process has traced for the tests that follow."""
    with mock.patch.object(memory, "release_compile_memory"):
        yield


@pytest.fixture
def dataset() -> Dataset:
    """A data set of noise: 48 and 20 images of 16x16x3."""
    return random_dataset()


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command of the program in this process: returns (exit code, output, error lines)."""
    from jaxcnn import cli
    from jaxcnn.commands import train
    from jaxcnn.runtime import compilation_cache

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(compilation_cache, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(memory, "configure_malloc", lambda: None)

    def run(*arguments):
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as ending:
            for flag in flags.FLAGS.flags_by_module_dict()[train.__name__]:
                flag.unparse()  # what another test has set
            cli.main(arguments)
        said, code = capsys.readouterr(), ending.value.code
        # A text as exit code is printed by the interpreter, which then exits with 1.
        error = said.err + (code if isinstance(code, str) else "")
        return 1 if isinstance(code, str) else code or 0, said.out, error.splitlines()

    return run
