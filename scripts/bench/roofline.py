"""How near to the machine's limits a training step is: a roofline for each network.

    python scripts/bench/roofline.py
    python scripts/bench/roofline.py --table docs/results/roofline.json

The limit is the sum, over the three convolutions of each layer (forward, gradients of images and
kernel), of the longer of two times: multiplications, after what the chosen algorithm saves, at the
speed of a large matrix product; operands and results, moved once, at the speed of a copy. Batch
norms add what their gradients' sums have to read. Nothing else is counted: no transforms, updates,
augmentation. Product, copy (of as many bytes as the layers' arrays have) and steps take turns.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import reports
import steps
from jax.extend import core

from jaxcnn import cli, models, ops
from jaxcnn.commands.parser import at_least
from jaxcnn.ops import onednn_calls
from jaxcnn.ops.conv.api import conv_spec_of
from jaxcnn.ops.conv.select import select
from jaxcnn.runtime import environment
from jaxcnn.study import tables

NETWORKS = ("lenet", "mobilenet", "resnet18", "densenet40_k12", "densenet_bc100_k12")
BATCH = 128
_SIZE = 2048  # of the matrices
_FLOAT = 4  # bytes
# Multiplications that are left, by algorithm (docs/algorithms.md).
_LEFT = {"winograd": 1 / 4, "winograd_stride2": 9 / 16}


class Work(NamedTuple):
    """What has to be done for one convolution, or for the sums of a norm.

    Attributes:
        products: Multiply-adds.
        moved: Bytes.
    """

    products: float
    moved: float


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yields the equations of a jaxpr, and those of the functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def of_convolution(equation: Any, is_first: bool, backend: Any) -> Iterator[Work]:
    """Yields the work of a convolution of the network and of its gradients."""
    x, kernel, y = (v.aval for v in (*equation.invars, *equation.outvars))
    p = equation.params
    window = (p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"])
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    specs: list[Any] = []
    jax.eval_shape(  # the operands have to be arrays, if only traced ones
        lambda x, k: specs.append(conv_spec_of(x, k, *window, numbers, groups)),
        *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, kernel)),
    )
    (spec,) = specs
    plan = select(spec, x.shape[0], x.shape[3], kernel.shape[3], backend)
    products = y.size * math.prod(kernel.shape[:3])
    moved = _FLOAT * (x.size + y.size)
    for operation, algorithm in plan._asdict().items():
        if not (is_first and operation == "input_grad"):
            yield Work(products * _LEFT.get(algorithm.partition(".")[2], 1), moved)


def of_network(name: str, batch: int) -> list[Work]:
    """Returns the work of a training step of `batch` images of 32x32 pixels."""
    model = models.create(name, dtype="float32", ops="stock")
    images = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    jaxpr = jax.make_jaxpr(
        lambda variables, x: model.apply(variables, x, train=True, mutable=["batch_stats"])
    )(variables, images).jaxpr
    backend = "onednn" if ops.has_onednn() else "xla"
    found: list[Work] = []
    for equation in equations(jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            found += of_convolution(equation, not found, backend)
        elif equation.primitive.name == "reduce_sum" and equation.params["axes"] == (0, 1, 2):
            # Two sums of a norm's input, and so half of what its gradient reads: it, and that of y.
            found.append(Work(0, _FLOAT * equation.invars[0].aval.size))
    return found


def seconds(function: Callable[..., Any], *operands: jax.Array) -> float:
    """Returns the seconds of a call of a compiled function; the shortest of a few."""
    found = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(function(*operands))
        found.append(time.perf_counter() - begin)
    return min(found)


def measured(network: str, rounds: int) -> dict[str, Any]:
    """Returns work, speeds and times of a network, all of which take turns."""
    work = of_network(network, BATCH)
    product = onednn_calls.matmul if ops.has_onednn() else jnp.matmul
    matrix = jnp.ones((_SIZE, _SIZE), jnp.float32)
    kept = sum(each.moved for each in work) / 3  # each array is moved about three times
    array = jnp.ones(int(kept / 2 / _FLOAT), jnp.float32)
    with ops.uncached():
        multiply = jax.jit(product).lower(matrix, matrix).compile()
    copy = jax.jit(lambda a: a + 1).lower(array).compile()
    spec = {"network": network, "contender": "jaxcnn", "batch_size": BATCH}
    threads = {"threads": environment.usable_cores(), "keep_memory": False}
    contender = steps.Contender({**spec, "dtype": "float32", **threads})
    speeds: dict[str, list[float]] = {"products": [], "bytes": []}
    try:
        contender.run(3)
        count = max(1, min(50, round(0.5 / contender.seconds.pop())))
        for _ in range(rounds):
            speeds["products"].append(_SIZE**3 / seconds(multiply, matrix, matrix))
            speeds["bytes"].append(2 * array.nbytes / seconds(copy, array))
            time.sleep(0.3)  # JAX's threads stop spinning.
            contender.run(count)
    finally:
        contender.close()
    return {
        "work": [tuple(each) for each in work],
        "per_second": speeds,
        "step_seconds": contender.seconds,
    }


def limit(found: dict[str, Any]) -> tuple[float, float]:
    """Returns the seconds that the machine's limits ask for, and those of products alone."""
    products, moved = (statistics.median(found["per_second"][k]) for k in ("products", "bytes"))
    work = [Work(*each) for each in found["work"]]
    return (
        sum(max(each.products / products, each.moved / moved) for each in work),
        sum(each.products for each in work) / products,
    )


def table(report: dict[str, Any]) -> str:
    """Returns the report in Markdown, a row for each network."""
    rows = []
    for network, found in report["networks"].items():
        whole, products = limit(found)
        step = statistics.median(found["step_seconds"])
        speeds = [statistics.median(found["per_second"][kind]) for kind in ("products", "bytes")]
        work = [sum(each[part] for each in found["work"]) for part in (0, 1)]
        rows.append(
            [
                network,
                *(f"{part / 1e9:,.1f}" for part in work),
                *(f"{speed / 1e9:,.0f}" for speed in speeds),
                f"{1e3 * whole:,.1f}",
                f"{products / whole:.0%}",
                f"{1e3 * step:,.1f}",
                f"{whole / step:.0%}",
            ]
        )
    head = ["network", "10^9 multiply-adds", "GB moved", "10^9 multiply-adds/s", "GB/s"]
    head += ["limit, ms", "of it products", "step, ms", "reached"]
    return "\n".join(
        [
            tables.markdown(head, rows),
            "",
            f"Batch {BATCH}, float32, medians of {report['rounds']}; {report['machine']}, "
            f"jax {report['jax']}{', with oneDNN' if report['onednn'] else ''}.",
        ]
    )


def main() -> None:
    """Runs the program."""
    parser = reports.parser(__doc__, "roofline.json")
    parser.add_argument("--network", action="append", help="name from jaxcnn.models; repeatable")
    parser.add_argument("--rounds", type=at_least(1), default=7)
    args = reports.parsed(parser, table)
    networks = {name: measured(name, args.rounds) for name in steps.known(args.network or NETWORKS)}
    report = {"rounds": args.rounds, "onednn": ops.has_onednn(), "networks": networks}
    print(table(report | reports.made_by()))
    reports.write(args.out, report)


if __name__ == "__main__":
    cli.script(main)
