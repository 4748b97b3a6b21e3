"""Which sums and products are computed wrongly here? Small programs against exact arithmetic.

The programs are of the kinds that training and `ops` make. Their operands are integers so small
that every sum in float32 is exact, whatever its order, and so different from row to row that a
result in a wrong place is a wrong result: any difference is an error of the compiler or a library.

This file runs with every version of JAX that is looked at, and imports nothing of the package.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SIZES = [base for p in range(12, 19) for base in (2**p - 1, 2**p, 2**p + 1, 5 * 2**p // 4)]
INNER = (1, 2, 3, 4, 5, 7, 8, 12, 16)
DTYPES = ("float32", "bfloat16")

Operands = tuple[np.ndarray, ...]


class Case(NamedTuple):
    """One program.

    Attributes:
        kind: A key of `KINDS`.
        rows: Number of rows.
        inner: Numbers in a row.
        dtype: Of the operands.
    """

    kind: str
    rows: int
    inner: int
    dtype: str = "float32"

    def __str__(self) -> str:
        """Returns what the program computes."""
        return f"{self.kind}, {self.dtype} [{self.rows}, {self.inner}]"


class Wrong(NamedTuple):
    """A program that does not compute what it should.

    Attributes:
        case: The program.
        got: The result that is farthest off, or what happened instead of a result.
        expected: What it should be; None if there is no result.
    """

    case: Case
    got: float | str
    expected: float | None = None


class Kind(NamedTuple):
    """What a program computes.

    Attributes:
        operands: Integers as float64, for a generator, the number of rows and of numbers in a row.
        program: In JAX, on arrays of the case's dtype.
        definition: In NumPy, on the float64 operands.
        rounding: Relative difference that the rounding of functions such as exp explains.
    """

    operands: Callable[[np.random.Generator, int, int], Operands]
    program: Callable[..., Any]
    definition: Callable[..., Any]
    rounding: float = 0.0


def _integers(most: int, *shapes: Callable[[int, int], tuple[int, ...]]) -> Any:
    """Returns operands between -most and most, of a shape that depends on (rows, inner) each."""
    return lambda rng, n, c: tuple(
        rng.integers(-most, most + 1, shape(n, c)).astype(np.float64) for shape in shapes
    )


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


def _rows(n: int, c: int) -> tuple[int, ...]:
    return n, c


def _pixels(n: int, c: int) -> tuple[int, ...]:
    return n // 4, 2, 2, c


def _images(n: int, c: int) -> tuple[int, ...]:
    return n // 16, 4, 4, c


def _windows(x: Any) -> Any:
    """Returns the 2x2 windows of images, [N, 2, 2, 2, 2, C] with the axes of a window 2 and 4."""
    return x.reshape(x.shape[0], 2, 2, 2, 2, x.shape[-1])


def _pool(x: jax.Array, start: float, combine: Any) -> jax.Array:
    return jax.lax.reduce_window(x, start, combine, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _log_sum_exp(x: np.ndarray) -> np.ndarray:
    largest = x.max(1)
    return largest + np.log(np.exp(x - largest[:, None]).sum(1))


# 2^18 rows of integers up to m give sums of at most 2^18 m, of squares or products 2^18 m^2: below
# 2^24, where float32 has every integer. bfloat16 has those up to 2^8.
KINDS: dict[str, Kind] = {
    "sum of rows": Kind(_integers(60, _rows), lambda x: jnp.sum(x, 0), lambda x: x.sum(0)),
    "sum of columns": Kind(_integers(200, _rows), lambda x: jnp.sum(x, 1), lambda x: x.sum(1)),
    "sum of all": Kind(_integers(3, _rows), lambda x: jnp.sum(_wide(x)), lambda x: x.sum()),
    "largest of rows": Kind(_integers(200, _rows), lambda x: jnp.max(x, 0), lambda x: x.max(0)),
    "largest of columns": Kind(_integers(200, _rows), lambda x: jnp.max(x, 1), lambda x: x.max(1)),
    "sum over pixels": Kind(
        _integers(60, _pixels),
        lambda x: jnp.sum(_wide(x), (0, 1, 2)),
        lambda x: x.sum((0, 1, 2)),
    ),
    "moments over pixels": Kind(
        _integers(7, _pixels),
        lambda x: (jnp.sum(_wide(x), (0, 1, 2)), jnp.sum(jnp.square(_wide(x)), (0, 1, 2))),
        lambda x: (x.sum((0, 1, 2)), (x**2).sum((0, 1, 2))),
    ),
    "sum of masked products": Kind(
        _integers(7, _rows, _rows),
        lambda x, y: jnp.sum(jnp.where(x > 0, _wide(x) * _wide(y), 0), 0),
        lambda x, y: np.where(x > 0, x * y, 0).sum(0),
    ),
    "largest of windows": Kind(
        _integers(200, _images),
        lambda x: _pool(x, -jnp.inf, jax.lax.max),
        lambda x: _windows(x).max((2, 4)),
    ),
    "sum of windows": Kind(
        _integers(60, _images),
        lambda x: _pool(x, 0.0, jax.lax.add),
        lambda x: _windows(x).sum((2, 4)),
    ),
    "log of a sum of exp": Kind(
        _integers(20, _rows),
        lambda x: jax.nn.logsumexp(_wide(x), 1),
        _log_sum_exp,
        rounding=1e-6,
    ),
    "product": Kind(
        _integers(100, _rows, lambda n, c: (c, 5)), lambda x, w: x @ w, lambda x, w: x @ w
    ),
    "transposed product": Kind(
        _integers(7, _rows, _rows), lambda x, y: x.T @ y, lambda x, y: x.T @ y
    ),
    "products of a batch": Kind(
        _integers(100, lambda n, c: (16, n // 16, c), lambda n, c: (16, c, 5)),
        lambda x, w: x @ w,
        lambda x, w: x @ w,
    ),
    "sum of a product's ReLU": Kind(
        _integers(2, _rows, lambda n, c: (c, 5)),
        lambda x, w: jnp.sum(jax.nn.relu(_wide(x) @ _wide(w)), 0),
        lambda x, w: np.maximum(x @ w, 0).sum(0),
    ),
    # jax issue 39103.
    "vmap of a squared product": Kind(
        lambda rng, n, c: (rng.integers(-200, 201, (n, c)).astype(np.float64), np.eye(c)),
        lambda x, m: jax.vmap(lambda row: jnp.sum((_wide(m) @ _wide(row)) ** 2))(x),
        lambda x, m: ((x @ m.T) ** 2).sum(1),
    ),
    # jax issues 40412 and 39257; both may end the process.
    "rank 7": Kind(
        _integers(9, *[lambda n, c: (3, 1, 2, 2, 8, 8, c)] * 2),
        lambda a, b: jnp.sum(a * b, 3),
        lambda a, b: (a * b).sum(3),
    ),
    "rank 8": Kind(
        _integers(9, lambda n, c: (10, 4, 6, *[1] * 5), lambda n, c: (10, 4, 6, 9, 9, 9, 9, c)),
        lambda a, b: jnp.sum(a * b, 2),
        lambda a, b: (a * b).sum(2),
    ),
}
_RANKS = ("rank 7", "rank 8")  # shapes of their own, whatever the number of rows


def every_case() -> list[Case]:
    """Returns every kind of program in every size, inner size and dtype."""
    plain = [kind for kind in KINDS if kind not in _RANKS]
    return [
        Case(kind, rows, inner, dtype)
        for kind in plain
        for dtype in DTYPES
        for rows in SIZES
        for inner in INNER
    ] + [Case(kind, 0, inner) for kind in _RANKS for inner in INNER]


def is_known(case: Case) -> bool:
    """Whether a program is one that some version computes wrongly."""
    return case.kind in _RANKS or (case.kind == "vmap of a squared product" and case.inner == 3)


def sampled_cases() -> list[Case]:
    """Returns a fifth of `every_case`: inner sizes in turn, so that each kind meets them all."""
    return [
        case
        for index, case in enumerate(every_case())
        if sum(divmod(index, len(INNER))) % 5 == 0 or is_known(case)
    ]


def short_cases() -> list[Case]:
    """Returns the cases that `jaxcnn doctor` runs, in a few seconds."""
    plain = [kind for kind in KINDS if kind not in _RANKS]
    return [Case(kind, rows, 3) for kind in plain for rows in (2**15 + 1, 5 * 2**13)] + [
        Case("rank 7", 0, 8),
        Case("rank 8", 0, 9),
    ]


def check(case: Case, options: Mapping[str, Any]) -> Wrong | None:
    """Runs one program, compiled with these options of XLA; returns what is wrong, or None."""
    kind = KINDS[case.kind]
    operands = kind.operands(np.random.default_rng([case.rows, case.inner]), case.rows, case.inner)
    arrays = [jnp.asarray(array, case.dtype) for array in operands]
    compiled = jax.jit(kind.program).lower(*arrays).compile(dict(options))
    results = jax.tree.leaves(compiled(*arrays))
    exact = jax.tree.leaves(kind.definition(*operands))
    worst: tuple[float, Wrong] | None = None
    for result, definition in zip(results, exact, strict=True):
        got = np.asarray(result).astype(np.float64)
        # The sum is exact, so its only rounding is that to the dtype of the result.
        want = np.asarray(definition).astype(result.dtype).astype(np.float64)
        difference = np.abs(got - want)
        off = ~(difference <= kind.rounding * np.maximum(np.abs(want), 1))  # NaN is off
        if off.any():
            at = np.unravel_index(np.argmax(np.nan_to_num(difference, nan=np.inf)), got.shape)
            found = Wrong(case, float(got[at]), float(want[at]))
            distance = abs(found.got - want[at]) if np.isfinite(got[at]) else np.inf
            if worst is None or distance > worst[0]:
                worst = distance, found
    return worst[1] if worst else None
