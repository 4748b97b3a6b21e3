r"""Which of XLA's CPU options sum and multiply correctly, by version of jaxlib.

    python scripts/checks/sums.py                        # this interpreter's jaxlib
    python scripts/checks/sums.py --python A/bin/python --python B/bin/python \
        --out docs/results/sums.json
    python scripts/checks/sums.py --table docs/results/sums.json

Compiles small programs of the kinds that training makes (sums over pixels, sums of products, matrix
products and their transposes, norms, the loss, a product inside `vmap`), with sizes around the
powers of two from 2^12 to 2^18 and inner sizes from 1 to 16, in float32 and bfloat16, and compares
with float64. The numbers are small integers, so every float32 sum is exact and any difference at
all is an error. Each set of options runs in a process of its own; where a program ends its process,
that program is noted and the rest goes on.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
SIZES = [2**power + delta for power in range(12, 19) for delta in (-1, 0, 1)]
INNER = (1, 2, 3, 4, 5, 7, 8, 12, 16)
DTYPES = ("float32", "bfloat16")
# The flag in question lists the fusions that XLA hands to the library YNNPACK.
FUSIONS = "xla_cpu_experimental_ynn_fusion_type"
OPTIONS: dict[str, dict[str, str]] = {
    "default": {},
    "reductions only": {FUSIONS: "LIBRARY_FUSION_TYPE_REDUCE"},
    "no fusions": {FUSIONS: ""},
    "jaxcnn": {},  # filled in by the process that runs: ops.CPU_COMPILER_OPTIONS
}


class Case(NamedTuple):
    """One program: what it computes, over how many rows of how many numbers, in which dtype."""

    kind: str
    rows: int
    inner: int
    dtype: str


def cases() -> list[Case]:
    """Returns all cases of the sweep, in a fixed order."""
    return [
        Case(kind, rows, inner, dtype)
        for kind in KINDS
        for dtype in DTYPES
        for rows in SIZES
        for inner in INNER
    ] + [Case("rank 7", 0, inner, "float32") for inner in INNER]


def _kinds() -> dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]]:
    """Returns for each kind of program its operands, itself in JAX, and itself in NumPy."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def rows(rng: Any, n: int, c: int) -> list[Any]:
        return [rng.integers(-4, 5, (n, c))]

    def two(rng: Any, n: int, c: int) -> list[Any]:
        return [rng.integers(-4, 5, (n, c)), rng.integers(-4, 5, (n, c))]

    def matrix(rng: Any, n: int, c: int) -> list[Any]:
        return [rng.integers(-4, 5, (n, c)), rng.integers(-4, 5, (c, 5))]

    def square(rng: Any, n: int, c: int) -> list[Any]:
        return [rng.integers(-2, 3, (n, c)), np.eye(c, dtype=int)]

    def pixels(rng: Any, n: int, c: int) -> list[Any]:
        return [rng.integers(-4, 5, (n // 4, 2, 2, c))]

    def wide(x: Any) -> Any:
        return x.astype(jnp.float32)

    return {
        "sum of rows": (rows, lambda x: jnp.sum(x, 0), lambda x: x.sum(0)),
        "sum of columns": (rows, lambda x: jnp.sum(x, 1), lambda x: x.sum(1)),
        "sum of all": (rows, lambda x: jnp.sum(wide(x)), lambda x: x.sum()),
        "largest": (rows, lambda x: jnp.max(x, 0), lambda x: x.max(0)),
        "sum of squares": (
            rows,
            lambda x: jnp.sum(jnp.square(wide(x)), 0),
            lambda x: (x**2).sum(0),
        ),
        "sum over pixels": (
            pixels,
            lambda x: jnp.sum(wide(x), (0, 1, 2)),
            lambda x: x.sum((0, 1, 2)),
        ),
        "sum of masked products": (
            two,
            lambda x, y: jnp.sum(jnp.where(wide(x) > 0, wide(x) * wide(y), 0), 0),
            lambda x, y: np.where(x > 0, x * y, 0).sum(0),
        ),
        "product": (matrix, lambda x, w: wide(x) @ wide(w), lambda x, w: x @ w),
        "transposed product": (two, lambda x, y: wide(x).T @ wide(y), lambda x, y: x.T @ y),
        "product, ReLU, sum": (
            matrix,
            lambda x, w: jnp.sum(jax.nn.relu(wide(x) @ wide(w)), 0),
            lambda x, w: np.maximum(x @ w, 0).sum(0),
        ),
        "vmap of a squared product": (
            square,
            lambda x, m: jax.vmap(lambda row: jnp.sum((wide(m) @ wide(row)) ** 2))(x),
            lambda x, m: ((x @ m.T) ** 2).sum(1),
        ),
    }


KINDS = (
    "sum of rows",
    "sum of columns",
    "sum of all",
    "largest",
    "sum of squares",
    "sum over pixels",
    "sum of masked products",
    "product",
    "transposed product",
    "product, ReLU, sum",
    "vmap of a squared product",
)


def error_of(case: Case, options: dict[str, Any]) -> float:
    """Returns the largest error of one case, relative to the largest result; 0 where exact."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng([case.rows, case.inner])
    if case.kind == "rank 7":
        # jax issue 40412: a product of rank 7 whose result is added up.
        shape = (2, 2, 2, 2, 2, 3, case.inner)
        operands = [rng.integers(-2, 3, shape), rng.integers(-2, 3, (*shape[:5], case.inner, 3))]
        program, definition = (lambda a, b: jnp.sum(a @ b, -1)), (lambda a, b: (a @ b).sum(-1))
    else:
        make, program, definition = _kinds()[case.kind]
        operands = make(rng, case.rows, case.inner)
    arrays = [jnp.asarray(array, case.dtype) for array in operands]
    compiled = jax.jit(program).lower(*arrays).compile(options)
    got = np.asarray(compiled(*arrays)).astype(np.float64)
    want = np.asarray(definition(*(np.asarray(array, np.int64) for array in operands)), np.float64)
    scale = max(1.0, float(np.abs(want).max()))
    error = float(np.abs(got - want).max()) / scale
    # A bfloat16 result has 8 bits, and XLA may add up in bfloat16 where the result is one.
    is_rounded = got.dtype != want.dtype or jax.eval_shape(program, *arrays).dtype == jnp.bfloat16
    return 0.0 if is_rounded and error < case.rows * 2.0**-16 + 2.0**-7 else error


def child(options: str, start: int, step: int) -> None:
    """Runs every `step`-th case from `start` on; a line before each, and one with its error."""
    if options == "jaxcnn":
        sys.path.insert(0, str(ROOT))
        from jaxcnn import ops

        chosen: dict[str, Any] = dict(ops.CPU_COMPILER_OPTIONS)
    else:
        chosen = dict(OPTIONS[options])
    all_cases = cases()
    for index in range(start, len(all_cases), step):
        print(json.dumps({"begin": index}), flush=True)
        try:
            error: float | str = error_of(all_cases[index], chosen)
        except Exception as raised:  # what XLA refuses is a finding, not the end of the sweep
            error = f"{type(raised).__name__}: {' '.join(str(raised).split())[:200]}"
        if error:
            print(json.dumps({"index": index, "error": error}), flush=True)
    print(json.dumps({"done": True}), flush=True)


def sweep(python: str, options: str, step: int) -> Iterator[dict[str, Any]]:
    """Yields the cases that are wrong with these options, with the interpreter `python`."""
    start, all_cases = 0, cases()
    while start < len(all_cases):
        command = [python, __file__, "--child", options, str(start), str(step)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        last, finished = start, False
        for line in done.stdout.splitlines():
            message = json.loads(line)
            last = message.get("begin", last)
            finished |= "done" in message
            if "error" in message:
                yield {**all_cases[message["index"]]._asdict(), "error": message["error"]}
        if finished:
            return
        if not done.stdout:
            raise SystemExit(f"error: {python} cannot run the sweep: {done.stderr.strip()[-300:]}")
        yield {**all_cases[last]._asdict(), "error": f"the process ended ({done.returncode})"}
        start = last + step


def versions(python: str) -> dict[str, str]:
    """Returns the versions of Python, jax and jaxlib that an interpreter has."""
    program = (
        "import json, platform, jax, jaxlib;"
        "print(json.dumps({'python': platform.python_version(), 'jax': jax.__version__,"
        "'jaxlib': jaxlib.__version__, 'machine': platform.machine()}))"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {python} has no jax: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def table(reports: list[dict[str, Any]]) -> str:
    """Returns the reports in Markdown, a line for each version and set of options."""
    lines = [
        "| jaxlib | options | cases | wrong | of these end the process | which |",
        "|" + "---|" * 6,
    ]
    for report in reports:
        wrong = report["wrong"]
        ended = sum("process ended" in str(case["error"]) for case in wrong)
        kinds = ", ".join(sorted({case["kind"] for case in wrong})) or "-"
        lines.append(
            f"| {report['jaxlib']} | {report['options']} | {report['cases']:,} | {len(wrong)} | "
            f"{ended} | {kinds} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Runs the program; 1 if the options that jaxcnn compiles with are wrong anywhere."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", action="append", help="interpreter; repeatable")
    parser.add_argument("--every", type=int, default=1, help="run every n-th case only")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--table", type=Path, help="print the table of such a file, no more")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], int(args.child[1]), int(args.child[2]))
        return 0
    if args.table:
        print(table(json.loads(args.table.read_text(encoding="utf-8"))))
        return 0
    reports: list[dict[str, Any]] = []
    for python in args.python or [sys.executable]:
        for options in OPTIONS:
            wrong = list(sweep(python, options, args.every))
            count = len(range(0, len(cases()), args.every))
            reports.append({**versions(python), "options": options, "cases": count, "wrong": wrong})
            print(table(reports[-1:]).splitlines()[-1], flush=True)
            if args.out:
                args.out.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    return int(any(r["wrong"] for r in reports if r["options"] == "jaxcnn"))


if __name__ == "__main__":
    sys.exit(main())
