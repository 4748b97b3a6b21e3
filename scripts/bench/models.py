"""What `ops.accelerate` gives to models that are not jaxcnn's: training steps against stock JAX.

python scripts/bench/models.py # docs/results/models.json
python scripts/bench/models.py --network U-Net --tiny --rounds 1 --out tiny.json
python scripts/bench/models.py --table docs/results/models.json

A step is the loss and all gradients in one compiled call, with JAX's own options. The two take
turns, in `--rounds` rounds, of which medians are taken. A first call is tracing, compiling and one
step.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from foreign_networks import CASES

from jaxcnn import cli, ops
from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import at_least, script_parser
from jaxcnn.runtime import environment
from jaxcnn.study import tables

ROOT = Path(__file__).resolve().parents[2]


def measured(name: str, rounds: int, is_tiny: bool) -> dict[str, Any]:
    """Returns seconds of first calls and of steps, and how far the gradients are apart.

    Beside it how far stock's are from its own for an input half of whose numbers are changed by two
    parts in ten million: what rounding alone may do.
    """
    case = CASES[name]
    network = case.network()
    x = jax.random.normal(jax.random.key(0), case.tiny if is_tiny else case.shape)
    variables = network.init(jax.random.key(1), x, train=False)

    def training(apply: Any) -> Any:
        def loss(params: Any, x: jax.Array) -> jax.Array:
            y, _ = apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.mean(jnp.square(y - 1))

        return jax.jit(jax.value_and_grad(loss))

    steps = {"jaxcnn": training(ops.accelerate(network.apply)), "stock": training(network.apply)}
    found: dict[str, Any] = {"first_call_seconds": {}, "step_seconds": {who: [] for who in steps}}
    results = {}
    for who, step in steps.items():
        start = time.perf_counter()
        results[who] = jax.block_until_ready(step(variables["params"], x))
        found["first_call_seconds"][who] = time.perf_counter() - start
    for _ in range(rounds):
        for who, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(variables["params"], x))
            found["step_seconds"][who].append(time.perf_counter() - start)
    ours, stock = map(_flat, results.values())
    bits = jax.random.bernoulli(jax.random.key(2), shape=x.shape)
    changed = _flat(steps["stock"](variables["params"], x * (1 + 2e-7 * bits)))
    for what, other in (("relative_difference", ours), ("stock_for_changed_input", changed)):
        found[what] = float(np.linalg.norm(other - stock) / np.linalg.norm(stock))
    return found | {"input": list(x.shape), "about": case.about}


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def table(report: dict[str, Any]) -> str:
    """Returns the report in Markdown, a row for each network."""
    rows = []
    for name, found in report["networks"].items():
        step = {who: statistics.median(times) for who, times in found["step_seconds"].items()}
        first = found["first_call_seconds"]
        rows.append(
            [
                name,
                " x ".join(map(str, found["input"])),
                found["about"],
                f"{step['jaxcnn']:.3f}",
                f"{step['stock']:.3f}",
                f"{step['stock'] / step['jaxcnn']:.1f}",
                f"{first['jaxcnn']:.1f} / {first['stock']:.1f}",
                f"{found['relative_difference']:.0e} / {found['stock_for_changed_input']:.0e}",
            ]
        )
    head = ["network", "input", "what is special", "step, s", "stock, s", "times as fast"]
    head += ["first call, s: ours / stock", "gradients apart / sensitivity"]
    return "\n".join(
        [
            tables.markdown(head, rows),
            "",
            f"Training steps of random inputs, float32, medians of {report['rounds']}; "
            f"{report['machine']}, jax {report['jax']}, jaxlib {report['jaxlib']}"
            f"{', with oneDNN' if report['onednn'] else ''}.",
        ]
    )


def main() -> None:
    """Runs the program."""
    parser = script_parser(__doc__)
    parser.add_argument("--network", action="append", choices=list(CASES), help="repeatable")
    parser.add_argument("--tiny", action="store_true", help="small inputs, for a try")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "models.json")
    parser.add_argument("--table", type=Path, help="print the table of this file, and end")
    args = parser.parse_args()
    if args.table:
        print(outfiles.read(args.table, table))
        return
    outfiles.check_file("--out", args.out, (".json",))
    networks = {}
    for name in args.network or CASES:
        networks[name] = measured(name, args.rounds, args.tiny)
        print(json.dumps({name: networks[name]}), flush=True)
        jax.clear_caches()
    report = {
        "rounds": args.rounds,
        "tiny": args.tiny,
        "machine": environment.machine(),
        "git_revision": environment.git_revision(),
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
        "onednn": ops.has_onednn(),
        "networks": networks,
    }
    print(table(report))
    outfiles.write("--out", args.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    cli.script(main)
