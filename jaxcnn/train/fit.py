"""A whole run: from a configuration and a data set to a finished run folder."""

import contextlib
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import config_dict

from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset
from jaxcnn.evaluate.run_plots import RunPlots
from jaxcnn.models.summary import BlockSummary, block_summaries, totals
from jaxcnn.run import losses, tensorboard
from jaxcnn.run.best import best_record, is_exhausted, is_held_out
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import Observer, ObserverList, WarningKeeper
from jaxcnn.runtime import distributed, environment, sharding
from jaxcnn.runtime.signals import Interrupted, Interrupts
from jaxcnn.train import initial, limits, start
from jaxcnn.train.capacity import compile_programs
from jaxcnn.train.loop import Training
from jaxcnn.train.step import evaluated_variables


def fit(
    config: config_dict.ConfigDict,
    dataset: Dataset,
    workdir: str | Path,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Trains a network and leaves a run folder; continues a run that was begun there.

    Args:
        config: From a file in configs/, or `config.default_config`.
        dataset: From `data.load`.
        workdir: The run folder.
        observer: Gets the progress.

    Returns:
        The content of summary.json.

    Raises:
        UserError: For a mistake in the configuration, or a folder that cannot be used.
        Interrupted: When SIGINT or SIGTERM arrived; the state is saved.
    """
    warned = WarningKeeper()
    observer = ObserverList(observer or Observer(), warned)
    settings, mesh, rows = prepare(config, dataset)
    run = RunDir(workdir)
    # Process 0 alone reads the folder, so that all processes decide alike.
    before = distributed.broadcast_from_process_0(lambda: epochs_before(run, settings))
    is_over = distributed.broadcast_from_process_0(
        lambda: is_exhausted(run.read_metrics(), settings.train.patience)
    )
    if before == settings.train.epochs or (before and is_over):
        return _summary(run)
    if before:
        observer.say(
            f"from {before} to {settings.train.epochs} epochs: from here on with the "
            "learning rates of the longer schedule"
        )
    # What can be refused is refused before the folder is locked and written to.
    if settings.train.deterministic:
        environment.check_deterministic()
    if settings.train.tensorboard:
        tensorboard.check_installed()
    weights = initial.of_run(settings, run, observer.say)
    with Interrupts() as interrupts, contextlib.ExitStack() as lock:
        distributed.broadcast_from_process_0(
            lambda: lock.enter_context(start.noted(run, settings, warned, weights))
        )
        observer.network(settings.model.name, rows)
        run_plots, observers = _observers(run, settings, observer)
        observers.say("compiling")
        programs = compile_programs(settings, dataset, mesh)
        training = Training(programs, run, observers, interrupts, weights)
        records = training.run_to_end()
        if why := losses.difference(settings, rows, records):
            observers.say(why)
        # Before the summary: a run that is interrupted here is continued by the same command.
        distributed.broadcast_from_process_0(lambda: _draw(run_plots, training, dataset))
        distributed.broadcast_from_process_0(
            lambda: run.write_json("summary.json", summarize(records, rows, settings))
        )
    return _summary(run)


def prepare(
    config: config_dict.ConfigDict, dataset: Dataset
) -> tuple[Settings, Mesh, list[BlockSummary]]:
    """Returns the settings, the devices and the network's table; UserError if they do not fit."""
    settings, mesh = Settings.resolve(config, dataset), sharding.data_mesh()
    limits.check(settings, mesh)
    return settings, mesh, block_summaries(settings.create_model(), settings.facts.image_shape)


def epochs_before(run: RunDir, settings: Settings) -> int:
    """Returns the epochs of a finished run in the folder, else 0; UserError if it is not ours."""
    run.check(settings.to_json())
    finished = run.summary()
    return finished["epoch"] if finished else 0


def _summary(run: RunDir) -> dict[str, Any]:
    """Returns the content of summary.json of a finished run."""
    summary = run.summary()
    assert summary is not None
    return summary


def _observers(
    run: RunDir, settings: Settings, observer: Observer
) -> tuple[RunPlots | None, Observer]:
    """Returns what draws plots, if anything does, and all observers; process 0 has more of them."""
    observers, run_plots = [observer], None
    if settings.train.plots and distributed.is_process_0():
        observers.append(run_plots := RunPlots(run, settings, observer.say))
    if settings.train.tensorboard and distributed.is_process_0():
        observers.append(tensorboard.EventWriter(run))
    return run_plots, ObserverList(*observers)


def _draw(run_plots: RunPlots | None, training: Training, dataset: Dataset) -> None:
    """Draws the plots of a finished training; a signal raises Interrupted."""

    def on_batch() -> None:
        if training.interrupts.received is not None:  # all is saved by now
            raise Interrupted(training.interrupts.received, training.step)

    if run_plots:
        run_plots.curves()
        variables = jax.device_get(evaluated_variables(training.state))
        run_plots.end(variables, dataset, on_batch)


def summarize(
    records: list[dict[str, Any]], rows: list[BlockSummary], settings: Settings
) -> dict[str, Any]:
    """Returns the content of summary.json.

    The best epoch is named only where the evaluation split is a part of the training data held
    out; choosing by the test split would be choosing on the test set.
    """
    parameters, flops = totals(rows)
    summary = {
        **records[-1],
        "model": settings.model.name,
        "parameters": parameters,
        "flops": flops,
        "total_seconds": round(sum(record["seconds"] for record in records), 3),
    }
    if records[-1]["epoch"] < settings.train.epochs:
        summary["stopped_early"] = True
    best = best_record(records)
    if best and is_held_out(settings.dataset.eval_split):
        summary |= {"best_epoch": best["epoch"], "best_eval_accuracy": best["eval_accuracy"]}
    return summary
