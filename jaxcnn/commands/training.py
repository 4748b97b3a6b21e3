"""What every verb that trains does first, and what its process keeps to itself."""

import sys
from collections.abc import Iterable
from typing import Any

from absl import logging
from ml_collections import config_dict

from jaxcnn.commands import streams
from jaxcnn.commands.parser import at_least
from jaxcnn.doctor import record
from jaxcnn.runtime import compilation_cache, environment, memory, switches
from jaxcnn.study import side_by_side
from jaxcnn.study.side_by_side import Beside


def prepare(configs: Iterable[config_dict.ConfigDict]) -> None:
    """Prepares the process for such trainings; call it before JAX initializes a backend.

    Raises:
        UserError: If there is no device, or `jaxcnn doctor` has found wrong numbers here.
    """
    quiet_libraries()
    switches.put_back()
    streams.go_on_without_output()
    memory.configure_malloc()
    if any(config.train.deterministic for config in configs):
        environment.use_deterministic_operations()
    compilation_cache.use_compilation_cache()
    switches.check_devices()
    record.check_start()


JOBS: dict[str, Any] = {
    "type": at_least(1),
    "default": 1,
    "help": "trainings at a time, each on its share of the CPU's cores (default: 1)",
}
"""What `add_argument` needs for --jobs."""


def beside(count: int) -> Beside | None:
    """Returns how trainings are run side by side; None for one after another.

    Raises:
        UserError: If that cannot be done here.
    """
    if count == 1:
        return None
    side_by_side.shares(count)  # refused now, not after the first message
    return Beside(count, prepare)


def quiet_libraries() -> None:
    """Keeps what libraries report of their own work from standard error.

    Orbax tells of every step of every save, and of errors with a traceback before it raises them.
    """
    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = _print_unraisable


def _print_unraisable(unraisable: Any) -> None:
    """Prints an error of code that has no caller, except one that says nothing.

    When a write fails, as on a full disk, Orbax closes its event loop while TensorStore still has
    answers for it, each of which then is an error of its own (orbax-checkpoint 0.12.8).
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
