"""Trains one network and leaves a run folder; the same command again continues the run.

jaxcnn train --config mobilenet
jaxcnn train --config mobilenet:digits --train.epochs=3
jaxcnn train --config configs/resnet.py --model.name=resnet20 --workdir runs/small
jaxcnn train --config densenet --dry_run
"""

import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

import jaxcnn
from jaxcnn import data
from jaxcnn.commands import config_flag, named, streams, training
from jaxcnn.config import schema
from jaxcnn.config.settings import check_network
from jaxcnn.data import locate
from jaxcnn.doctor import record
from jaxcnn.errors import UserError
from jaxcnn.run import observers
from jaxcnn.runtime import compilation_cache, distributed, environment, memory, notices, switches
from jaxcnn.runtime.compilation import timed
from jaxcnn.train import fit, plan

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder; by default runs/NAME, or runs/NAME-DATASET, after --config."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Check everything, compile, print what would be done, and train nothing."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT at which process 0 of several listens. Slurm, Open MPI, Cloud TPU and Kubernetes "
    "need none of these three flags. The service asks for no password: use a private address.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0 on.")

_CONFIG_HELP = """\
  --data_dir: TFDS directory, as in the other verbs: the same as --dataset.data_dir.
  --config: Name or path of a configuration file, a Python file with get_config(), which is
    executed; after a colon, the data set. Every value can be set on the command line, such as
    --train.epochs=3, or --config.train.epochs=3:"""


def run(arguments: Sequence[str]) -> None:
    """Trains, prints the result and where everything is."""
    if {"--help", "-help", "-h"} & set(arguments):
        print(_help())
        return
    training.quiet_libraries()
    try:
        with distributed.translate_peer_failures():
            app.run(
                _train,
                argv=["jaxcnn", *arguments],
                flags_parser=lambda argv: config_flag.parse(argv[1:], flags.FLAGS),
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped before training; nothing is lost") from None


def _train(given: config_flag.Parsed) -> None:
    stages = {"imports": time.perf_counter() - jaxcnn.IMPORTED_AT}
    if given.rest:
        raise UserError(f"unexpected argument {given.rest[0]!r}: only flags are taken, see --help")
    if not _DRY_RUN.value:
        streams.go_on_without_output()
    config = given.config
    schema.validate(config)
    check_network(config)  # before data is looked for, which may be a long download
    workdir = locate.expanded(_WORKDIR.value or default_workdir(given.source))
    switches.put_back()
    memory.configure_malloc()
    if config.train.deterministic:
        environment.use_deterministic_operations()
    compilation_cache.use_compilation_cache()
    distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    switches.check_devices()
    if not distributed.is_process_0():
        notices.silence()
    report = observers.create_reporter() if distributed.is_process_0() else observers.Observer()
    record.check_start()
    with timed(stages, "data"):
        dataset = distributed.process_0_first(lambda: data.load(**config.dataset))
    if _DRY_RUN.value:
        plan.dry_run(config, dataset, workdir, report, stages)
        return
    summary = fit.fit(config, dataset, workdir, report)
    if distributed.is_process_0():
        report.say(
            f"{summary['model']} after {summary['epoch']} epochs: evaluation accuracy "
            f"{summary['eval_accuracy']:.4f}, loss {summary['eval_loss']:.4f}\n"
            f"everything is in {workdir}: summary.json, metrics.jsonl, config.json, checkpoints/"
            f"{', plots/' if config.train.plots else ''}\n"
            "to start another run, choose a new folder with --workdir"
        )


def default_workdir(source: str) -> str:
    """Returns runs/NAME for --config NAME or .../NAME.py, runs/NAME-DATASET with :DATASET.

    For the config.json of a run it is runs/RUN-anew: the same run in a new folder.
    """
    path, _, dataset = source.partition(":")
    if path.endswith(".json"):
        return f"runs/{Path(path).resolve().parent.name}-anew"
    return f"runs/{Path(path).stem}" + (f"-{dataset}" if dataset else "")


def _help() -> str:
    """Returns the help: examples, what can be named, every flag and every key."""
    description, _, examples = (__doc__ or "").strip().partition("\n\n")
    own_flags = flags.FLAGS.module_help(__name__).strip().removeprefix(f"{__name__}:\n")
    keys = (f"    --config.{key}: {schema.describe(key)}" for key, _ in schema.walk())
    return "\n".join(
        [
            "usage: jaxcnn train --config NAME[:DATASET] [--FLAG=VALUE ...]\n",
            f"{description}\n",
            "examples:",
            *(f"  {line}" for line in examples.splitlines()),
            f"\n{named.describe()}\n",
            f"flags:\n{own_flags}",
            _CONFIG_HELP,
            *keys,
        ]
    )
