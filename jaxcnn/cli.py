"""The command `jaxcnn`: which verbs there are, and the one way in which all of them end."""

import contextlib
import difflib
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import jaxcnn
from jaxcnn.commands import streams
from jaxcnn.commands.console import usage_error
from jaxcnn.commands.parser import Parser
from jaxcnn.errors import PeerLostError, UserError
from jaxcnn.runtime import notices
from jaxcnn.runtime.signals import Interrupted

VERBS = {
    "train": "train a network; the same command again continues the run",
    "evaluate": "loss, accuracy, figures of each class and calibration of a run",
    "predict": "classify image files with a run's network, or a pretrained one",
    "serve": "show a page on which to try networks with one's own images",
    "plot": "draw the plots of a run, or the curves of several runs",
    "compare": "write a report, one HTML file, that compares runs",
    "layers": "print the layers of a network: shapes, parameters, memory",
    "export": "write the network of a run for other programs",
    "import": "make a run folder of weights that another program has trained",
    "lr_find": "find a learning rate by a range test of one epoch",
    "study": "train the four networks by the recipes of a budget, and compare them",
    "sweep": "train with several values and seeds, and compare what they reach",
    "prepare": "prepare a data set, from its published files or by download",
    "doctor": "check this machine, and that it computes the right numbers",
    "launch": "start several processes of one run on this machine",
}
"""Each verb with what it does.

The verb is the module `jaxcnn.commands.VERB`, which is imported only when it is asked for. It has
`add_arguments(parser)` and `run(args)`, which returns an exit code or None for 0; its docstring is
the help: a line that says what it does, then examples, then notes. A verb whose arguments are absl
flags has no `add_arguments`, and its `run` takes the arguments as they are.
"""

# Verbs that use JAX at once; `train` first joins other processes.
_COMPUTING = ("evaluate", "predict", "serve", "plot", "compare", "layers", "import", "export")

_HELP = """\
usage: jaxcnn VERB [ARGUMENTS] | jaxcnn VERB --help | jaxcnn --version

Trains convolutional networks on small images and shows what they have learned.

{verbs}

examples:
  jaxcnn train --config lenet:digits        without a download
  jaxcnn train --config mobilenet           on CIFAR-10, downloaded on first use"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command; without `arguments`, those of the process."""
    given = sys.argv[1:] if arguments is None else arguments
    script(lambda: run(given))


def script(program: Callable[[], int | None]) -> NoReturn:
    """Runs the program of this process and exits, see `end`; output may be closed, or take less."""
    streams.prepare()
    with notices.shown():
        end(program)


def run(arguments: Sequence[str]) -> int | None:
    """Runs the verb that is the first argument; returns its exit code, None for 0."""
    if not arguments or arguments[0] in ("--help", "-h"):
        width = max(map(len, VERBS))
        print(_HELP.format(verbs="\n".join(f"  {v:{width}}  {VERBS[v]}" for v in VERBS)))
        return None
    if arguments[0] == "--version":
        print(f"jaxcnn {jaxcnn.__version__}")
        return None
    verb, *rest = arguments
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        usage_error(f"{verb!r} is not a verb{hint}: see jaxcnn --help")
    module = importlib.import_module(f"jaxcnn.commands.{verb}")
    if not hasattr(module, "add_arguments"):
        return module.run(rest)
    parser = Parser(verb, module.__doc__ or "")
    module.add_arguments(parser)
    args = parser.parse(rest)
    if verb in _COMPUTING:
        from jaxcnn.runtime import switches

        switches.put_back()
        switches.check_devices()
    return module.run(args)


def end(program: Callable[[], int | str | None]) -> NoReturn:
    """Runs a program and exits: with what it returns, or with one line on standard error.

    Exit codes: 1 for what a user can cause, 2 for a usage mistake, 128 + n after signal n.
    """
    try:
        try:
            code = program()
        except SystemExit as ending:
            code = ending.code
        except BaseException:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            raise
        streams.finish()  # here a closed pipe is still an error that can be handled
        sys.exit(code)
    except UserError as error:
        _fail(f"error: {error}")
    except PeerLostError as error:
        _fail(f"error: {error}; the same launch continues")
    except BrokenPipeError:  # such as `| head`: the reader has seen enough
        sys.exit(1)
    except OSError as error:
        _fail(f"error: {error.filename or 'input or output'}: {error.strerror or error}")
    except FloatingPointError as error:
        _fail(
            f"error: JAX_DEBUG_NANS or JAX_DEBUG_INFS: {' '.join(str(error).split())}; unset it to "
            "have the program deal with numbers that are not finite"
        )
    except Interrupted as stop:
        where = "" if stop.step is None else f" after step {stop.step}"
        print(f"stopped{where}; the same command continues", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt as stop:
        if message := str(stop):
            print(message, file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _fail(message: str) -> NoReturn:
    """Exits with code 1 after one line, without waiting for the other processes of a run."""
    if "jax" in sys.modules:  # without JAX there are no other processes
        from jaxcnn.runtime import distributed

        distributed.exit_without_peers(message)
    sys.exit(message)
