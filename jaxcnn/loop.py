"""The training loop: from a configuration and a data set to a finished run folder."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import config_dict

from jaxcnn import augment, batches, describe, environment, metrics, optim, parallel, resolve
from jaxcnn import config as configuration
from jaxcnn.checkpoint import Checkpoints
from jaxcnn.data import Dataset
from jaxcnn.errors import UserError
from jaxcnn.interrupts import Interrupted, Interrupts
from jaxcnn.programs import Programs
from jaxcnn.progress import Silence
from jaxcnn.rundir import RunDir


def fit(
    config: config_dict.ConfigDict,
    dataset: Dataset,
    workdir: Path,
    report: Silence | None = None,
) -> dict[str, Any]:
    """Trains a network and leaves a run folder; continues a run that was begun there.

    Args:
        config: From a file in configs/, or `config.default_config`.
        dataset: From `data.load`.
        workdir: The run folder.
        report: Who is told of the progress.

    Returns:
        The content of summary.json.

    Raises:
        UserError: For a mistake in the configuration, or a folder that cannot be used.
        Interrupted: When SIGINT or SIGTERM arrived; the state is saved.
    """
    report = report or Silence()
    configuration.validate(config)
    mesh = parallel.data_mesh()
    _check_sizes(config, dataset, mesh)
    resolved = resolve.resolve(config, dataset)
    model = resolve.model_of(resolved)
    rows = describe.describe(model, tuple(resolved["dataset"]["image_shape"]))

    run = RunDir(workdir)
    run.claim(resolved)
    finished = run.read_json("summary.json")
    if finished and finished["epoch"] == config.train.epochs:
        return finished
    run.add_start({**environment.describe(), "dataset": dataset.fingerprint})
    report.network(config.model.name, rows)

    with Interrupts() as interrupts:
        training = _Training(config, resolved, model, dataset, mesh, run, report, interrupts)
        records = training.run_to_end()
    summary = summarise(records, rows, resolved)
    run.write_json("summary.json", summary)
    return summary


class _Training:
    """One process's share of a run: restores, trains epoch by epoch, saves."""

    def __init__(
        self,
        config: config_dict.ConfigDict,
        resolved: dict[str, Any],
        model: nn.Module,
        dataset: Dataset,
        mesh: Mesh,
        run: RunDir,
        report: Silence,
        interrupts: Interrupts,
    ) -> None:
        self.config, self.run, self.report, self.interrupts = config, run, report, interrupts
        self.examples = len(dataset.train.labels)
        self.steps_per_epoch = batches.steps_per_epoch(self.examples, config.train.batch_size)
        self.optimizer = optim.create(
            **config.optim, epochs=config.train.epochs, steps_per_epoch=self.steps_per_epoch
        )
        report.say("compiling")
        self.checkpoints = Checkpoints(run.checkpoints, keep=config.train.keep_checkpoints)
        self.programs = Programs(
            model=model,
            optimizer=self.optimizer,
            augment=augment.create(**config.augment),
            moments=resolve.moments_of(resolved),
            dataset=dataset,
            mesh=mesh,
            batch_size=config.train.batch_size,
            eval_batch_size=config.train.eval_batch_size,
            label_smoothing=config.train.label_smoothing,
            ema_decay=config.train.ema_decay,
            seed=config.seed,
        )
        latest = self.checkpoints.latest_step()
        if latest is None:
            self.state, self.step = self.programs.init(), 0
        else:
            self.state = self.checkpoints.restore(latest, self.programs.template)
            self.step = latest
            report.say(f"continuing after step {latest}")
        self.saved_at = time.monotonic()

    def run_to_end(self) -> list[dict[str, Any]]:
        """Trains the epochs that are missing and returns the records of all."""
        config = self.config
        records = self.run.cut_metrics(self.step)
        epochs = config.train.epochs
        self.report.start(epochs=epochs, steps_per_epoch=self.steps_per_epoch, step=self.step)
        try:
            while len(records) < epochs:
                record = self.epoch(len(records))
                self.run.append_metrics(record)
                records.append(record)
                self.report.epoch(record, epochs)
                self.save()
                self.stop_if_asked()
            self.checkpoints.wait()
        finally:
            self.report.stop()
            self.checkpoints.close()
        return records

    def epoch(self, epoch: int) -> dict[str, Any]:
        """Trains what is left of an epoch, counted from 0, evaluates, and returns the record."""
        began = time.monotonic()
        offset = self.step - epoch * self.steps_per_epoch
        if offset == 0:
            self.state = dataclasses.replace(self.state, sums=self.programs.no_sums())
        order = batches.epoch_order(
            self.config.seed, epoch, self.examples, self.config.train.batch_size
        )
        images = 0
        for indices in order[offset:]:
            self.state = self.programs.train(self.state, indices)
            self.step += 1
            images += len(indices)
            if self.step % self.config.train.log_steps == 0:
                self.look(images / (time.monotonic() - began))
            self.stop_if_asked()
            if time.monotonic() - self.saved_at > 60 * self.config.train.checkpoint_minutes:
                self.save()
        loss, accuracy = self.look(None)
        trained = time.monotonic() - began
        eval_loss, eval_accuracy = metrics.means(self.programs.evaluate(self.state))
        return {
            "epoch": epoch + 1,
            "step": self.step,
            "learning_rate": float(self.optimizer.learning_rate(self.step - 1)),
            "train_loss": loss,
            "train_accuracy": accuracy,
            "eval_loss": eval_loss,
            "eval_accuracy": eval_accuracy,
            "seconds": round(time.monotonic() - began, 3),
            "images_per_second": round(images / trained, 1) if images else None,
        }

    def look(self, rate: float | None) -> tuple[float, float]:
        """Waits for the device and returns the epoch's (mean loss, accuracy) so far."""
        loss, accuracy = metrics.means(self.state.sums)
        if not np.isfinite(loss):
            raise UserError(
                f"the training loss is {loss} at step {self.step}: lower optim.peak_lr "
                f"(now {self.config.optim.peak_lr}) or set optim.clip_norm, and use a new --workdir"
            )
        if rate is not None:
            self.report.step(self.step, loss, accuracy, rate)
        return loss, accuracy

    def save(self) -> None:
        """Starts writing a checkpoint of this step, unless there is one."""
        if self.checkpoints.latest_step() != self.step:
            self.checkpoints.save(self.step, self.state)
        self.saved_at = time.monotonic()

    def stop_if_asked(self) -> None:
        """Saves and raises Interrupted if a signal has arrived."""
        if self.interrupts.received is not None:
            self.save()
            self.checkpoints.wait()
            raise Interrupted(self.interrupts.received, self.step)


def summarise(
    records: list[dict[str, Any]], rows: list[describe.Row], resolved: dict[str, Any]
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
    parallel.check_batch("train.batch_size", config.train.batch_size, mesh)
    parallel.check_batch("train.eval_batch_size", config.train.eval_batch_size, mesh)
    examples = len(dataset.train.labels)
    if config.train.batch_size > examples:
        raise UserError(
            f"train.batch_size={config.train.batch_size} is larger than the training split "
            f"{config.dataset.train_split!r} with its {examples} images: at most {examples}"
        )
