"""What a run says of itself, as one row of the comparison."""

from collections.abc import Callable
from typing import Any

from jaxcnn import models
from jaxcnn.errors import UserError
from jaxcnn.evaluate import evaluation
from jaxcnn.evaluate.run import Run
from jaxcnn.models import summary
from jaxcnn.run import losses
from jaxcnn.runtime import environment

COSTS = {
    "parameters": "parameters",
    "flops": "multiply-adds of one image",
    "total_minutes": "minutes of training",
}
"""Kinds of cost in the facts, and what to call them."""


def of_run(
    run: Run, data_dir: str = "", say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Returns the facts of one run, in JSON's kinds of values.

    The accuracy and the loss are those of the last epoch: to choose the best epoch by the test
    split would be to choose on the test set. Speeds and times are those of the fastest epoch, and
    every epoch counts as long: other programs on the machine can only slow an epoch down.

    A run whose weights were imported has no records; it is evaluated here, and what its training
    would tell is None.

    Args:
        run: The run.
        data_dir: A TFDS directory; empty for the run's own.
        say: Gets warnings about the evaluation of imported weights.

    Raises:
        UserError: If no epoch has ended.
    """
    records = run.records
    if not records and not is_imported(run):
        raise UserError(f"{run.path} has no epoch yet: wait for the end of its first one")
    rows = summary.block_summaries(run.model, run.image_shape)
    parameters, flops = summary.totals(rows)
    # None for an epoch that was only evaluated after a run was continued.
    rates = [r["images_per_second"] for r in records if r["images_per_second"] is not None]
    start = run.starts[-1] if run.starts else {}
    settings = run.settings
    last = records[-1] if records else _evaluated(run, data_dir, say)
    pace = min((record["seconds"] for record in records), default=None)
    return {
        "name": run.name,
        "model": run.model_name,
        "family": models.FAMILY[run.model_name],
        "plain": bool(settings.model.plain),
        "layers": sum(row.layers for row in rows),
        "parameters": parameters,
        "bytes": 4 * parameters,  # parameters are float32 whatever the compute dtype
        "flops": flops,
        "epochs": last["epoch"],
        "planned_epochs": settings.train.epochs,
        "train_split": settings.dataset.train_split,
        "train_examples": settings.facts.train_examples,
        "eval_split": settings.dataset.eval_split,
        "data": settings.facts.fingerprint,
        "dtype": settings.model.dtype,
        "device": _device(start),
        "warnings": _warnings(run.starts),
        "losses_differ": losses.difference(settings, rows, records) if records else "",
        "images_per_second": max(rates) if rates else None,
        "seconds_per_epoch": pace,
        "total_minutes": None if pace is None else last["epoch"] * pace / 60,
        "train_loss": last["train_loss"],
        "train_accuracy": last["train_accuracy"],
        "eval_loss": last["eval_loss"],
        "eval_accuracy": last["eval_accuracy"],
        "records": [
            {
                **record,
                "minutes": record["epoch"] * pace / 60,
                "images": record["epoch"] * settings.facts.train_examples,
            }
            for record in records
        ],
    }


def is_imported(run: Run) -> bool:
    """Whether the run's weights come from another program."""
    return bool(run.starts) and "imported" in run.starts[-1]


def _evaluated(run: Run, data_dir: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Returns what the record of an epoch would say of imported weights, which have had none."""
    found = evaluation.evaluate(run, say, evaluation.Selection(data_dir=data_dir)).scores
    return {
        "epoch": 0,
        "train_loss": None,
        "train_accuracy": None,
        "eval_loss": found.loss,
        "eval_accuracy": found.top1,
    }


def _warnings(starts: list[dict[str, Any]]) -> list[str]:
    """Returns the warnings of all starts of a run, each once, in order."""
    return list(dict.fromkeys(text for start in starts for text in start.get("warnings", [])))


def _device(start: dict[str, Any]) -> str:
    """Returns the hardware of a start of a run, in words."""
    if start.get("platform") == "cpu":
        return environment.cores_of(start.get("cpu_count"), start.get("cpu"))
    devices = start.get("devices", [])
    return f"{len(devices)} x {devices[0]}" if devices else "unknown"
