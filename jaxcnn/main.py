"""Trains one network and leaves a run folder; the same command again continues.

python -m jaxcnn.main --config configs/mobilenet.py
python -m jaxcnn.main --config configs/mobilenet.py:digits
python -m jaxcnn.main --config configs/mobilenet.py --config.train.epochs=3
"""

import difflib
import itertools
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from jaxcnn import data
from jaxcnn.config import schema, settings
from jaxcnn.errors import PeerLostError, UserError
from jaxcnn.run import observers
from jaxcnn.runtime import distributed, environment
from jaxcnn.runtime.signals import Interrupted
from jaxcnn.train import fit

_FIELDS = "\n".join(f"  --config.{key}: {schema.describe(key)}" for key, _ in schema.walk())
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Python file with get_config(), which is executed; after a colon, the data set. Every value "
    f"can be set on the command line, such as --config.train.epochs=3:\n{_FIELDS}\n",
)
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


def main(argv: Sequence[str]) -> None:
    """Trains, prints the result and where everything is."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: only flags are taken, see --help")
    # Orbax tells of every step of every save, and of errors with a traceback before it raises them.
    logging.set_verbosity(logging.FATAL)
    config = _CONFIG.value
    schema.validate(config)
    settings.check_network(config)  # before data is looked for, which may be a long download
    workdir = Path(_WORKDIR.value or default_workdir(flags.FLAGS["config"].config_filename))
    environment.configure_malloc()
    if config.train.deterministic:
        environment.use_deterministic_operations()
    environment.use_compilation_cache()
    distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    report = observers.create_reporter() if distributed.is_process_0() else observers.Observer()
    dataset = distributed.process_0_first(lambda: data.load(**config.dataset))
    if _DRY_RUN.value:
        fit.dry_run(config, dataset, workdir, report)
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


def default_workdir(config_file: str) -> str:
    """Returns runs/NAME for --config .../NAME.py, runs/NAME-DATASET for NAME.py:DATASET."""
    path, _, dataset = config_file.partition(":")
    return f"runs/{Path(path).stem}" + (f"-{dataset}" if dataset else "")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line and executes the configuration file.

    Raises:
        UserError: For any mistake in the flags or in the file, in one line.
    """
    given = [a.split("=", 1)[1] for a in argv if re.match(r"--?config=", a)]
    given += [b for a, b in itertools.pairwise(argv) if a in ("--config", "-config")]
    file = given[-1].partition(":")[0] if given else ""
    if given and not Path(file).is_file():
        raise UserError(f"--config={file}: there is no such file; the project's are in configs/")
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is None:
            raise UserError("--config is missing: give a file such as configs/mobilenet.py")
    except UserError:
        raise
    except Exception as error:  # a configuration file is a program: it can raise anything
        raise UserError(_explain(argv, file, error)) from error
    return rest


def _explain(argv: Sequence[str], file: str, error: Exception) -> str:
    """Returns what is wrong with the flags, or with the configuration file, in one line."""
    keys = [key for key, _ in schema.walk()]
    for argument in argv[1:]:
        found = re.match(r"--?config\.([\w.]+)(?:=(.*))?$", argument)
        if found and found[1] not in keys:
            close = difflib.get_close_matches(found[1], keys, n=1)
            hint = f"did you mean {close[0]}?" if close else "see --help for all keys"
            return f"--config.{found[1]} is not a key of the configuration: {hint}"
        if found and f"--config.{found[1]}={found[2]}" in str(error):
            return f"--config.{found[1]}={found[2]} is not allowed: {schema.describe(found[1])}"
    if isinstance(error, flags.UnrecognizedFlagError) or not file:
        return _one_line(error)
    # The libraries in between raise errors of their own about the first one; the innermost with a
    # line of the configuration file is the one that its author can understand.
    chain: list[BaseException] = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(inner)
    for cause in reversed(chain):
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(cause.__traceback__)
            if Path(frame.filename).resolve() == Path(file).resolve()
        ]
        if isinstance(cause, SyntaxError):
            lines = [cause.lineno]
        if lines:
            return f"{file} line {lines[-1]}: {type(cause).__name__}: {_one_line(cause)}"
    return f"{file}: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _print_unraisable(unraisable: Any) -> None:
    """Prints an error of code that has no caller, except one that says nothing.

    When a write fails, as on a full disk, Orbax closes its event loop while TensorStore still has
    answers for it, each of which then is an error of its own (orbax-checkpoint 0.12.8).
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def cli() -> None:
    """Runs the program; what a user can cause ends in one line on standard error."""
    sys.unraisablehook = _print_unraisable
    try:
        with distributed.translate_peer_failures():
            app.run(main, flags_parser=parse_flags)
    except UserError as error:
        distributed.exit_without_peers(f"error: {error}")
    except PeerLostError as error:
        distributed.exit_without_peers(f"error: {error}; the same launch continues")
    except OSError as error:
        sys.exit(f"error: {error.filename or 'input or output'}: {error.strerror or error}")
    except Interrupted as stop:
        print(f"stopped after step {stop.step}; the same command continues", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:
        print("stopped before training; nothing is lost", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    cli()
