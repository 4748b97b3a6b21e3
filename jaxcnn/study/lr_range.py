"""The learning-rate range test: at which rates does a network learn, and where does it diverge?

The rate rises exponentially from step to step while the loss is watched (Smith 2015,
arXiv:1506.01186, sec. 3.3). Every step is that of a training, `train.step.train_step`, with the
configuration's optimizer, batches and augmentation; only the schedule is another.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from jaxcnn.data import Dataset, batches
from jaxcnn.errors import UserError
from jaxcnn.runtime import memory
from jaxcnn.train import fit, initial, metrics
from jaxcnn.train.capacity import compile_programs
from jaxcnn.train.programs import Programs
from jaxcnn.train.step import TrainState

LEAST_STEPS = 20
_SMOOTHING = 0.02  # of the test: losses of batches are noise, their mean over this part is not
_DIVERGED = 4.0  # times the lowest smoothed loss, beyond which nothing is to be learned


def exponential(low: float, high: float, steps: int) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Returns the schedule that rises from `low` at step 0 to `high` at the last, by one factor."""
    ratio = math.log(high / low) / (steps - 1)
    return lambda step: (low * jnp.exp(ratio * jnp.asarray(step, jnp.float32))).astype(jnp.float32)


def smooth(losses: np.ndarray, width: float) -> np.ndarray:
    """Returns the mean around each of n losses, weighted by a Gaussian.

    Centred, unlike an exponential average, whose lag would move every feature of the curve to a
    higher rate.

    Args:
        losses: `[n]`.
        width: Standard deviation of the Gaussian, in steps, above 0.
    """
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / width) ** 2)
    return weights @ losses / weights.sum(1)


def findings(rates: np.ndarray, losses: np.ndarray, steps: int) -> dict[str, Any]:
    """Returns what the losses say, in JSON's kinds of values.

    `lowest` is the rate with the lowest smoothed loss: from there on steps do more harm than good.
    `steepest` is the rate below it at which the loss falls fastest with the logarithm of the rate.
    `suggestion`, for optim.peak_lr, is their geometric mean: as fast as it goes, with room below
    the rate at which the loss rises, since a training stays near its peak far longer than the test.

    Args:
        rates: `[n]`, rising by one factor.
        losses: `[n]`, in nats, of the steps that were taken.
        steps: Steps of the whole test, n or more.
    """
    smoothed = smooth(losses, max(1.0, _SMOOTHING * steps))
    bottom = int(np.argmin(smoothed))
    if bottom == 0:
        raise UserError(
            f"the loss only rises from a learning rate of {rates[0]:.3g} on: begin lower, with "
            "--low"
        )
    slopes = np.gradient(smoothed)[: bottom + 1]
    steepest, lowest = float(rates[np.argmin(slopes)]), float(rates[bottom])
    return {
        "suggestion": float(f"{math.sqrt(steepest * lowest):.2g}"),
        "steepest": steepest,
        "lowest": lowest,
        "still_falling": bottom == len(losses) - 1,
        "rates": rates.tolist(),
        "losses": losses.tolist(),
        "smoothed": smoothed.tolist(),
    }


def run(
    config: config_dict.ConfigDict,
    dataset: Dataset,
    *,
    low: float,
    high: float,
    steps: int | None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Runs the test; see `findings` for what it gives.

    Args:
        config: The configuration; nothing is evaluated, so its evaluation split is not seen.
        dataset: Its data.
        low: Rate of the first step.
        high: Rate of the last step, above `low`.
        steps: Number of steps; None for an epoch.
        say: Gets the progress.

    Raises:
        UserError: For a mistake in the configuration, or a test that shows nothing.
    """
    config.train.steps_per_call = 1  # the loss of every step is looked at
    settings, mesh, _ = fit.prepare(config, dataset)
    steps = settings.steps_per_epoch if steps is None else steps
    if steps < LEAST_STEPS:
        raise UserError(
            f"{steps} steps of the range test are too few, an epoch here has "
            f"{settings.steps_per_epoch}: at least {LEAST_STEPS}, with --steps"
        )
    # A rate that is not finite anywhere ends the test, whatever the run would do.
    settings = dataclasses.replace(
        settings, train=dataclasses.replace(settings.train, on_nonfinite="stop")
    )
    weights = initial.load(settings, say) if settings.train.init_from else None
    say("compiling")
    programs = compile_programs(settings, dataset, mesh, exponential(low, high, steps))
    memory.release_compile_memory()
    losses = _losses(programs, initial.state(programs, weights), steps, say)
    rates = np.geomspace(low, high, steps)
    if len(losses) < LEAST_STEPS // 2:
        raise UserError(
            f"the loss explodes from a learning rate of {rates[len(losses)]:.3g} on: begin lower, "
            "with --low"
        )
    return {
        "model": settings.model.name,
        "seed": settings.seed,
        "data": settings.facts.fingerprint,
        "train_split": settings.dataset.train_split,
        "batch_size": settings.train.batch_size,
        "steps": steps,
        "diverged": len(losses) < steps,
        **findings(rates[: len(losses)], losses, steps),
    }


def _losses(
    programs: Programs, state: TrainState, steps: int, say: Callable[[str], None]
) -> np.ndarray:
    """Returns the loss of each step, float64 `[n]`, n below `steps` if the network diverges."""
    settings = programs.settings
    losses: list[float] = []
    mean = best = math.inf
    for epoch in range(-(-steps // settings.steps_per_epoch)):
        order = batches.shuffled_batches(
            settings.seed, epoch, settings.facts.train_examples, settings.train.batch_size
        )
        for call in programs.calls(order[: steps - len(losses)]):
            # Sums of this step alone.
            state = programs.train(programs.begin_epoch(state), call)
            loss, _ = metrics.means(state.sums)
            if not math.isfinite(loss):  # the step was not taken, see `train_step`
                return np.array(losses)
            losses.append(loss)
            mean = loss if len(losses) == 1 else 0.9 * mean + 0.1 * loss
            best = min(best, mean)
            if mean > _DIVERGED * best:
                return np.array(losses)
            if len(losses) % max(1, steps // 10) == 0:
                say(f"step {len(losses)} of {steps}  loss {mean:.4f}")
    return np.array(losses)
