"""The learning rate as a function of the step: every schedule by its name."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]
"""The learning rate as a function of the step, int32 [] from 0 on."""


class Course(NamedTuple):
    """What a schedule is made from.

    Attributes:
        peak_lr: The largest rate.
        warmup_steps: Steps of the linear rise.
        total_steps: Steps of the training.
        milestones: "multistep": fractions of the training at which the rate falls.
        decay_factor: "multistep": the rate is multiplied by this.
        peak_at: "triangular", "onecycle": fraction of the training at which the peak is reached.
        cooldown: "1-sqrt": fraction of the training, at its end, in which the rate falls.
    """

    peak_lr: float
    warmup_steps: int
    total_steps: int
    milestones: tuple[float, ...] = ()
    decay_factor: float = 1.0
    peak_at: float = 0.2
    cooldown: float = 0.2


def create_schedule(name: str, **course: object) -> Schedule:
    """Returns the learning rate as a function of the step, int32 [] from 0 on.

    Args:
        name: A key of `SCHEDULES`.
        **course: The fields of a `Course`.
    """
    return SCHEDULES[name](Course(**course))  # type: ignore[arg-type]  # a section's values


def _warmed_up(course: Course, body: Schedule) -> Schedule:
    """Returns a linear rise (Goyal et al. 2017, arXiv:1706.02677, sec. 2.2), then `body`.

    Step 0 already has 1 / warmup_steps of the peak, since a step at rate 0 would be lost. `body`
    counts from the end of the rise.
    """

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.int32)
        count = course.warmup_steps
        warm = course.peak_lr * (step + 1) / max(count, 1)
        return jnp.where(step < count, warm, body(step - count)).astype(jnp.float32)

    return rate


def _constant(course: Course) -> Schedule:
    return _warmed_up(course, optax.constant_schedule(course.peak_lr))


def _cosine(course: Course) -> Schedule:
    """Falls to 0 at the end (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, one cycle)."""
    after = course.total_steps - course.warmup_steps
    return _warmed_up(course, optax.cosine_decay_schedule(course.peak_lr, max(after, 1)))


def _linear(course: Course) -> Schedule:
    """Falls linearly to 0 at the end."""
    after = course.total_steps - course.warmup_steps
    return _warmed_up(course, optax.linear_schedule(course.peak_lr, 0.0, max(after, 1)))


def _multistep(course: Course) -> Schedule:
    """Is multiplied by `decay_factor` at each of `milestones` * total_steps."""
    drops = {
        round(milestone * course.total_steps) - course.warmup_steps: course.decay_factor
        for milestone in course.milestones
    }
    return _warmed_up(course, optax.piecewise_constant_schedule(course.peak_lr, drops))


def _triangular(course: Course) -> Schedule:
    """Rises until `peak_at`, which is its warm-up, then falls linearly to 0 at the end."""
    return _linear(course._replace(warmup_steps=round(course.peak_at * course.total_steps)))


# Of the peak: where the cycle begins and ends, and the last rate. Fraction of the training that the
# cycle takes.
_CYCLE_BASE, _LAST, _CYCLE = 1 / 25, 1 / 10_000, 0.85


def _onecycle(course: Course) -> Schedule:
    """Rises linearly to the peak, falls back as far, then almost to 0 (Smith, arXiv:1803.09820).

    The rate starts at 1/25 of the peak, which it reaches at `peak_at`. It is back at 1/25 after
    85 % of the training, and at 1/10,000 at the end. The momentum, which the paper lowers meanwhile
    (sec. 4.3), stays.
    """
    total, peak = course.total_steps, course.peak_lr
    # A peak after 85 % of the training leaves no time to fall back.
    steps = jnp.float32([0, course.peak_at * total, max(_CYCLE, course.peak_at) * total, total])
    rates = jnp.float32([_CYCLE_BASE * peak, peak, _CYCLE_BASE * peak, _LAST * peak])
    return lambda step: jnp.interp(jnp.asarray(step, jnp.float32), steps, rates)


def _one_minus_sqrt(course: Course) -> Schedule:
    """Stays, then falls as 1 - sqrt(x), x from 0 to 1 in `cooldown` (arXiv:2405.18392, sec. 3).

    So a training can be prolonged from before its cooldown: until there, its rates do not depend on
    its length.
    """
    falling = max(course.cooldown * course.total_steps, 1.0)
    start = course.total_steps - falling - course.warmup_steps

    def body(step: jax.typing.ArrayLike) -> jax.Array:
        fraction = jnp.clip((jnp.asarray(step, jnp.float32) - start) / falling, 0, 1)
        return course.peak_lr * (1 - jnp.sqrt(fraction))

    return _warmed_up(course, body)


SCHEDULES: dict[str, Callable[[Course], Schedule]] = {
    "cosine": _cosine,
    "multistep": _multistep,
    "constant": _constant,
    "linear": _linear,
    "triangular": _triangular,
    "onecycle": _onecycle,
    "1-sqrt": _one_minus_sqrt,
}
"""By the value of `optim.schedule`, what makes the schedule from its course."""
