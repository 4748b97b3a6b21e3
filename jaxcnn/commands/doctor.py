"""Checks this machine: what there is, what computes what, and whether it computes correctly.

jaxcnn doctor
jaxcnn doctor densenet:digits
jaxcnn doctor configs/resnet.py

Runs small sums and products whose exact results are known, then one training step of the
configuration's network, as compiled for a run, against the same step by the primitives of XLA.
The configuration is mobilenet unless one is given. Takes less than a minute for most networks.

The exit code is 1 if any number is wrong. The outcome is kept for this machine, these versions and
this program; `jaxcnn train` then refuses to start where numbers are wrong.
"""

import argparse
import logging
import time

import numpy as np
from ml_collections import config_dict

from jaxcnn import data, ops
from jaxcnn.commands import config_flag, named
from jaxcnn.commands.layers import KNOWN
from jaxcnn.config import schema
from jaxcnn.config.settings import Settings, check_network
from jaxcnn.data import Dataset, Split
from jaxcnn.data.sources import is_here
from jaxcnn.doctor import facts, isolated, record, step, sums
from jaxcnn.errors import UserError
from jaxcnn.runtime import compilation_cache, environment, memory, sharding, switches
from jaxcnn.train import limits
from jaxcnn.train.capacity import compile_programs

_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument(
        "config",
        nargs="?",
        default="mobilenet",
        help="configuration, by name or path, with a data set after a colon; default: mobilenet",
    )
    parser.epilog = f"{parser.epilog}\n\n{named.describe()}"


def run(args: argparse.Namespace) -> None:
    """Prints what there is and what was compared; UserError names what is wrong."""
    config = config_flag.load(args.config)
    schema.validate(config)
    check_network(config)
    switches.put_back()
    memory.configure_malloc()
    if config.train.deterministic:
        environment.use_deterministic_operations()
    compilation_cache.use_compilation_cache()
    switches.check_devices()
    dataset, of_what = _dataset(config)
    for line in facts.lines(config.dataset.data_dir):
        print(line, flush=True)
    findings: dict[str, str | None] = {"sums": _sums()}
    network = f"{config.model.name}, batch {config.train.batch_size}"
    findings[network] = _step(config, dataset, of_what)
    kept = f"kept in {record.file()}"
    try:
        record.remember(findings)
    except UserError as error:
        _logger.warning("%s", error)
        kept = "not kept: a training will not know"
    wrong = [error for error in findings.values() if error]
    if wrong:
        raise UserError("; ".join(wrong) + ": install another version of jax and jaxlib")
    print(f"all is well ({kept})")


def _sums() -> str | None:
    """Runs the small programs; returns the worst line, None if all is well."""
    began, cases = time.monotonic(), sums.short_cases()
    print(f"sums and products: {len(cases)} small programs on the CPU", flush=True)
    try:
        wrong = list(isolated.run(cases, ops.CPU_COMPILER_OPTIONS))
    except RuntimeError as error:
        raise UserError(
            f"small programs cannot be run in a process of their own: {error}"
        ) from error
    for line in map(_of_sums, wrong):
        print(f"  wrong: {line}")
    print(f"  {len(cases) - len(wrong)} right, {time.monotonic() - began:.1f} s", flush=True)
    return _of_sums(wrong[0]) if wrong else None


def _of_sums(wrong: sums.Wrong) -> str:
    if wrong.expected is None:
        return f"{wrong.case}: {wrong.got}"
    return f"{wrong.case}: {wrong.got!r} instead of {wrong.expected!r}"


def _step(config: config_dict.ConfigDict, dataset: Dataset, of_what: str) -> str | None:
    """Compares a training step; returns the worst line, None if all is well."""
    began, name = time.monotonic(), config.model.name
    mesh = sharding.data_mesh()
    if config.train.onednn is None:
        config.train.onednn = True  # as a training on many images would, however few these are
    settings = Settings.resolve(config, dataset)
    limits.check(settings, mesh)
    print(f"one training step of {name}, {settings.model.dtype}, {of_what}", flush=True)
    for line in facts.algorithms(settings, mesh.size):
        print(f"  {line}", flush=True)
    print("  compiling as for a run", flush=True)
    programs = compile_programs(settings, dataset, mesh)
    print("  compiling the same step by the primitives of XLA", flush=True)
    stock = step.compile_stock(settings, dataset, mesh)
    print("  comparing", flush=True)
    found = step.compare(programs, stock, dataset)
    worst = sorted(found, key=lambda difference: -difference.apart / difference.most)
    wrong = [difference for difference in worst if difference.is_wrong]
    lines = [_of_step(name, difference) for difference in wrong or worst[:1]]
    for line in lines[:10]:
        print(f"  {'wrong' if wrong else 'farthest apart'}: {line}")
    print(
        f"  {len(found) - len(wrong)} of {len(found)} arrays are right, "
        f"{time.monotonic() - began:.1f} s",
        flush=True,
    )
    return lines[0] if wrong else None


def _of_step(name: str, difference: step.Difference) -> str:
    return (
        f"{name}, {difference.name}: {difference.got:.6g} where the primitives of XLA give "
        f"{difference.expected:.6g} ({100 * difference.apart:.2g} % apart as a whole, at most "
        f"{100 * difference.most:g} %)"
    )


def _dataset(config: config_dict.ConfigDict) -> tuple[Dataset, str]:
    """Returns the configuration's data if it is here, else noise of its shape; and what it is."""
    name = config.dataset.name
    if _is_here(name, config.dataset.data_dir):
        loaded = data.load(**config.dataset)
        # One batch of each split is enough.
        few = Split(*(array[: config.train.eval_batch_size] for array in loaded.eval))
        return loaded._replace(eval=few), f"a batch of {name}"
    if name not in KNOWN:
        raise UserError(
            f"{name} is not prepared here, and its image shape is unknown: name another data set, "
            f"such as {', '.join(KNOWN)}"
        )
    shape, classes = KNOWN[name]
    count = max(config.train.batch_size, config.train.eval_batch_size)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    split = Split(images, rng.integers(0, classes, count).astype(np.int32))
    names = tuple(map(str, range(classes)))
    return Dataset(split, split, names, "noise"), f"noise, as {name} is not prepared here"


def _is_here(name: str, data_dir: str) -> bool:
    try:
        return is_here(name, data_dir)
    except UserError:  # which `facts` has told: there is no such directory, or no leave to read it
        return False
