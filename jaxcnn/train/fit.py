"""A whole run: from a configuration and a data set to a finished run folder."""

import contextlib
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import config_dict

from jaxcnn.config import schema, settings
from jaxcnn.data import Dataset
from jaxcnn.errors import UserError
from jaxcnn.evaluate.run_plots import RunPlots
from jaxcnn.models import summary as describe
from jaxcnn.run import tensorboard
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import Observer, ObserverList
from jaxcnn.runtime import distributed, environment, sharding
from jaxcnn.runtime.signals import Interrupted, Interrupts
from jaxcnn.train import plan, step
from jaxcnn.train.build import build
from jaxcnn.train.loop import Training


def fit(
    config: config_dict.ConfigDict,
    dataset: Dataset,
    workdir: Path,
    report: Observer | None = None,
) -> dict[str, Any]:
    """Trains a network and leaves a run folder; continues a run that was begun there.

    Args:
        config: From a file in configs/, or `config.default_config`.
        dataset: From `data.load`.
        workdir: The run folder.
        report: Who is observers of the progress.

    Returns:
        The content of summary.json.

    Raises:
        UserError: For a mistake in the configuration, or a folder that cannot be used.
        Interrupted: When SIGINT or SIGTERM arrived; the state is saved.
    """
    report = report or Observer()
    mesh, resolved, model, rows = _prepare(config, dataset)
    run = RunDir(workdir)
    before = distributed.broadcast_from_process_0(lambda: _epochs_before(run, resolved))
    if before == config.train.epochs:
        return run.read_json("summary.json")
    if before:
        report.say(
            f"from {before} to {config.train.epochs} epochs: from here on with the "
            "learning rates of the longer schedule"
        )
    if config.train.deterministic:
        environment.check_deterministic()
    if config.train.tensorboard:
        tensorboard.check_installed()
    with Interrupts() as interrupts, contextlib.ExitStack() as claim:

        def begin() -> None:
            claim.enter_context(run.locked(resolved))
            start = {"dataset": dataset.fingerprint, "epochs": config.train.epochs}
            run.add_start({**environment.describe(), **start})

        distributed.broadcast_from_process_0(begin)
        report.network(config.model.name, rows)
        watching, run_plots = [report], None
        if config.train.plots and distributed.is_process_0():
            watching.append(run_plots := RunPlots(run, resolved, report.say))
        if config.train.tensorboard and distributed.is_process_0():
            watching.append(tensorboard.EventWriter(run))
        observers = ObserverList(*watching)
        training = Training(config, resolved, model, dataset, mesh, run, observers, interrupts)
        records = training.run_to_end()

        def on_batch() -> None:
            if interrupts.received is not None:  # all is saved by now
                raise Interrupted(interrupts.received, training.step)

        def draw() -> None:
            if run_plots:
                run_plots.curves()
                variables = jax.device_get(step.evaluated_variables(training.state))
                run_plots.end(variables, dataset, on_batch)

        distributed.broadcast_from_process_0(
            draw
        )  # before the summary: an interruption here is continued, too
        distributed.broadcast_from_process_0(
            lambda: run.write_json("summary.json", summarize(records, rows, resolved))
        )
    return run.read_json("summary.json")


def dry_run(
    config: config_dict.ConfigDict,
    dataset: Dataset,
    workdir: Path,
    report: Observer,
) -> None:
    """Does all that `fit` does before the first step, says what would be done, writes nothing.

    Raises:
        UserError: As `fit`.
    """
    mesh, resolved, model, rows = _prepare(config, dataset)
    run = RunDir(workdir)
    before = distributed.broadcast_from_process_0(lambda: _epochs_before(run, resolved))
    report.network(config.model.name, rows)
    report.say("compiling")
    built = build(config, resolved, model, dataset, mesh)
    for line in plan.lines(resolved, built, mesh):
        report.say(line)
    report.say(
        f"{workdir} " + (f"is finished with {before} epochs" if before else "is free or goes on")
    )


def _prepare(
    config: config_dict.ConfigDict, dataset: Dataset
) -> tuple[Mesh, dict[str, Any], nn.Module, list[describe.BlockSummary]]:
    """Returns the devices, the content of config.json, the network and its table."""
    schema.validate(config)
    mesh = sharding.data_mesh()
    _check_sizes(config, dataset, mesh)
    resolved = settings.resolve(config, dataset)
    model = settings.model_of(resolved)
    rows = describe.block_summaries(model, tuple(resolved["dataset"]["image_shape"]))
    return mesh, resolved, model, rows


def _epochs_before(run: RunDir, resolved: dict[str, Any]) -> int:
    """Returns the epochs of a finished run in the folder, else 0; UserError if it is not ours."""
    run.check(resolved)
    finished = run.read_json("summary.json")
    return finished["epoch"] if finished else 0


def summarize(
    records: list[dict[str, Any]], rows: list[describe.BlockSummary], resolved: dict[str, Any]
) -> dict[str, Any]:
    """Returns the content of summary.json.

    The best epoch is named only where the evaluation split is a part of the training data held
    out; choosing by the test split would be choosing on the test set.
    """
    parameters, flops = describe.totals(rows)
    summary = {
        **records[-1],
        "model": resolved["model"]["name"],
        "parameters": parameters,
        "flops": flops,
        "total_seconds": round(sum(record["seconds"] for record in records), 3),
    }
    if resolved["dataset"]["eval_split"].startswith("train"):
        best = max(records, key=lambda record: record["eval_accuracy"])
        summary |= {"best_epoch": best["epoch"], "best_eval_accuracy": best["eval_accuracy"]}
    return summary


def _check_sizes(config: config_dict.ConfigDict, dataset: Dataset, mesh: Mesh) -> None:
    """Raises UserError where batches, devices and data do not fit together."""
    sharding.check_batch(
        "train.batch_size", config.train.batch_size, mesh, config.train.grad_accum_steps
    )
    sharding.check_batch("train.eval_batch_size", config.train.eval_batch_size, mesh)
    examples = len(dataset.train.labels)
    if config.train.batch_size > examples:
        raise UserError(
            f"train.batch_size={config.train.batch_size} is larger than the training split "
            f"{config.dataset.train_split!r} with its {examples} images: at most {examples}"
        )
