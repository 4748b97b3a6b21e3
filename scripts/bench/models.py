"""What `ops.accelerate` gives to models that are not jaxcnn's: training steps against stock JAX.

python scripts/bench/models.py # docs/results/models.json
python scripts/bench/models.py --layers --out docs/results/models-layers.json
python scripts/bench/models.py --network U-Net --tiny --rounds 1 --out tiny.json
python scripts/bench/models.py --table docs/results/models.json

A step is the loss and all gradients in one compiled call, with JAX's own options. The two take
turns, in `--rounds` rounds, of which medians are taken. A first call is tracing, compiling and one
step. Errors are those of loss and gradients together, by the norm, against stock JAX in float64.
"""

import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import reports
from foreign_networks import CASES, LAYERS

from jaxcnn import cli, ops
from jaxcnn.commands.parser import at_least
from jaxcnn.study import tables


def measured(name: str, rounds: int, is_tiny: bool) -> dict[str, Any]:
    """Returns seconds of first calls and of steps, and the errors of both."""
    case = (CASES | LAYERS)[name]
    network = case.network()
    x = jax.random.normal(jax.random.key(0), case.tiny if is_tiny else case.shape)
    variables = network.init(jax.random.key(1), x, train=False)

    def training(apply: Any) -> Any:
        def loss(params: Any, variables: Any, x: jax.Array) -> jax.Array:
            y, _ = apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.mean(jnp.square(y - 1))

        step = jax.jit(jax.value_and_grad(loss))
        return lambda variables, x: step(variables["params"], variables, x)

    steps = {"jaxcnn": training(ops.accelerate(network.apply)), "stock": training(network.apply)}
    found: dict[str, Any] = {"first_call_seconds": {}, "step_seconds": {who: [] for who in steps}}
    results = {}
    for who, step in steps.items():
        start = time.perf_counter()
        results[who] = jax.block_until_ready(step(variables, x))
        found["first_call_seconds"][who] = time.perf_counter() - start
    for _ in range(rounds):
        for who, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(variables, x))
            found["step_seconds"][who].append(time.perf_counter() - start)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), (variables, x))
        exact = _flat(training(network.apply)(*wide))
    found["error"] = {
        who: float(np.linalg.norm(_flat(result) - exact) / np.linalg.norm(exact))
        for who, result in results.items()
    }
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
                f"{found['error']['jaxcnn']:.0e} / {found['error']['stock']:.0e}",
            ]
        )
    head = ["network", "input", "what is special", "step, s", "stock, s", "times as fast"]
    head += ["first call, s: ours / stock", "error: ours / stock"]
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
    parser = reports.parser(__doc__, "models.json")
    parser.add_argument("--layers", action="store_true", help="single convolutions, not networks")
    parser.add_argument("--network", action="append", choices=[*CASES, *LAYERS], help="repeatable")
    parser.add_argument("--tiny", action="store_true", help="small inputs, for a try")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    args = reports.parsed(parser, table)
    networks = {}
    for name in args.network or (LAYERS if args.layers else CASES):
        networks[name] = measured(name, args.rounds, args.tiny)
        print(json.dumps({name: networks[name]}), flush=True)
        jax.clear_caches()
    report = {
        "rounds": args.rounds,
        "tiny": args.tiny,
        "jaxlib": jax.lib.__version__,
        "onednn": ops.has_onednn(),
        "networks": networks,
    }
    print(table(report | reports.made_by()))
    reports.write(args.out, report)


if __name__ == "__main__":
    cli.script(main)
