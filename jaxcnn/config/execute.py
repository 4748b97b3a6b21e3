"""From a file to a configuration: executes a Python file, or reads the config.json of a run."""

import importlib.machinery
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import config_dict

from jaxcnn.config import compat, schema
from jaxcnn.errors import UserError

_REMEDY = "see configs/lenet.py for an example"


def configuration(path: str, dataset: str, wanted: str = "") -> config_dict.ConfigDict:
    """Returns the configuration of a file, locked and not validated.

    Args:
        path: An existing file: a Python file with get_config(), or config.json of a run.
        dataset: What stands after the colon of --config; "" without a colon.
        wanted: The data set that a flag names, if any. A file whose get_config() has a parameter
            `dataset` gets it there, so that the recipe is the same as with a colon.

    Raises:
        UserError: For any mistake in the file, in one line with the file's name and line.
    """
    if path.endswith(".json"):
        if dataset:
            raise UserError(
                f"{path} is the configuration of a run, which takes no data set after a colon: "
                f"use --dataset.name={dataset}"
            )
        return _of_run(path)
    with _blaming(path):
        module = _execute(path)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise UserError(f"{path} has no function get_config(): {_REMEDY}")
        parameters = inspect.signature(get_config).parameters
        if dataset and not parameters:
            raise UserError(
                f"{path}: get_config() has no parameter for the data set after a colon: use "
                f"--dataset.name={dataset}"
            )
        named = wanted if wanted and "dataset" in parameters else dataset
        config = get_config(named) if named else get_config()
    if not isinstance(config, config_dict.ConfigDict):
        raise UserError(
            f"{path}: get_config() returned {type(config).__name__} in place of the configuration "
            f"that default_config() made: {_REMEDY}"
        )
    return config.lock()


def _execute(path: str) -> ModuleType:
    """Returns the module of a Python file, which may import its neighbors as a script may."""
    name = f"jaxcnn_configuration_{Path(path).stem}"
    loader = importlib.machinery.SourceFileLoader(name, path)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(Path(path).resolve().parent)
    sys.modules[name] = module  # a dataclass of the file looks itself up there
    sys.path.insert(0, folder)
    try:
        loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


@contextmanager
def _blaming(path: str) -> Iterator[None]:
    """Turns what a configuration file raises into a UserError that names the file's line."""
    try:
        yield
    except UserError as error:
        if str(error).startswith(path):
            raise
        raise UserError(_blame(path, error)) from error
    except (Exception, SystemExit) as error:  # a file is a program: it can raise anything
        raise UserError(_blame(path, error)) from error


def _blame(path: str, error: BaseException) -> str:
    """Returns the file, the line of it that was executed last, and the error, in one line."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == Path(path).resolve()
    ]
    if isinstance(error, SyntaxError):
        own = error.filename is None or Path(error.filename).resolve() == Path(path).resolve()
        lines = [error.lineno] if own else lines
    where = f" line {lines[-1]}" if lines and lines[-1] else ""
    return f"{path}{where}: {type(error).__name__}: {' '.join(str(error).split())}"


def _of_run(path: str) -> config_dict.ConfigDict:
    """Returns the configuration that a run's config.json says, with everything decided."""
    try:
        content: Any = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({' '.join(str(error).split())}): name a configuration file, or "
            "config.json of a run"
        ) from error
    try:
        return _from_json(content)
    except ValueError as error:
        raise UserError(f"{path} is not what a run writes: {error}") from error


def _from_json(content: Any) -> config_dict.ConfigDict:
    """Returns the configuration that the config.json of a run holds, without the facts of the data.

    Raises:
        UserError: If a key is missing or has another type than the program's.
    """
    if not isinstance(content, dict):
        raise UserError(f"it holds {type(content).__name__}, not an object")
    try:
        tree, config = compat.upgrade(content), schema.default_config()
    except (AttributeError, TypeError, RecursionError) as error:  # "a.b" beside "a"
        raise UserError("its keys are no configuration's") from error
    for key, declared in schema.walk():
        section, _, last = key.rpartition(".")
        inner = tree.get(section) if section else tree
        if not isinstance(inner, dict) or last not in inner:
            raise UserError(f"{key} is missing")
        value = inner[last]
        try:
            schema.put(config, key, tuple(value) if declared.kind is tuple else value)
        except TypeError as error:
            raise UserError(f"{key}={value!r} is not allowed: {schema.describe(key)}") from error
    return config
