"""Whether several seeds in one compiled call, by `jax.vmap`, train faster than one after another.

python scripts/bench/seeds.py                            # writes docs/results/seeds.json
python scripts/bench/seeds.py --networks lenet --seeds 2 --turns 2 --steps 2 --out seeds.json
python scripts/bench/seeds.py --table docs/results/seeds.json

Both ways take the same steps, from the same states on the same batches, and take turns in one
process; a figure is the median over the turns. `digits` is a batch of 64 images, `cifar10` one of
128, both of 32x32x3. `jaxcnn sweep` and `jaxcnn study` would train seeds together only if that were
at least 1.3 times as fast.
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import reports
import steps as timing

from jaxcnn import cli, models
from jaxcnn.commands.parser import at_least
from jaxcnn.data.augment import PixelStats, create_augment
from jaxcnn.runtime import compilation_cache, memory
from jaxcnn.runtime.compilation import compiled
from jaxcnn.train import optim
from jaxcnn.train.step import Objective, create_train_state, train_step

BATCHES = {"digits": 64, "cifar10": 128}
LEAST_GAIN = 1.3
ROOT = Path(__file__).resolve().parents[2]


def ways(
    network: str, batch: int, seeds: int, size: int = 32
) -> dict[str, Callable[[int], list[jax.Array]]]:
    """Returns for each way of training a function that takes steps and returns all parameters.

    Args:
        network: A name of `models.create`.
        batch: Images of a step of each seed.
        seeds: Number of trainings.
        size: Height and width of the images.
    """
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (seeds, batch, size, size, 3), dtype=np.uint8))
    labels = jnp.asarray(rng.integers(0, 10, (seeds, batch)).astype(np.int32))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    model, optimizer = models.create(network), optim.constant_sgd(0.01, weight_decay=5e-4)
    step = partial(
        train_step,
        objective=Objective(model, PixelStats((0.5,) * 3, (0.25,) * 3)),
        optimizer=optimizer,
        augment=create_augment(crop_padding=4, flip=True),
    )
    init = partial(
        create_train_state, model=model, optimizer=optimizer, image_shape=(size, size, 3)
    )
    separate = [jax.jit(init)(key) for key in keys]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *separate)
    data = [(keys[i], images[i], labels[i]) for i in range(seeds)]
    one = compiled(jax.jit(step, donate_argnums=0), (separate[0], *data[0]))
    all_at_once = compiled(
        jax.jit(jax.vmap(step), donate_argnums=0), (together, keys, images, labels)
    )
    box: dict[str, Any] = {"separate": separate, "together": together}

    def in_turns(steps: int) -> list[jax.Array]:
        for _ in range(steps):
            box["separate"] = [
                one(s, *batch) for s, batch in zip(box["separate"], data, strict=True)
            ]
        trees = [jax.tree.leaves(state.params) for state in box["separate"]]
        return jax.block_until_ready([jnp.stack(leaves) for leaves in zip(*trees, strict=True)])

    def at_once(steps: int) -> list[jax.Array]:
        for _ in range(steps):
            box["together"] = all_at_once(box["together"], keys, images, labels)
        return jax.block_until_ready(jax.tree.leaves(box["together"].params))

    return {"one after another": in_turns, "one call": at_once}


def measure(network: str, data: str, seeds: int, turns: int, steps: int) -> dict[str, Any]:
    """Returns the milliseconds of a step of all seeds in each way, and their ratio."""
    prepared = ways(network, BATCHES[data], seeds)
    first = [way(1) for way in prepared.values()]
    apart = max(float(jnp.abs(a - b).max()) for a, b in zip(*first, strict=True))
    seconds: dict[str, list[float]] = {name: [] for name in prepared}
    for _ in range(turns):
        for name, way in prepared.items():
            began = time.perf_counter()
            way(steps)
            seconds[name].append((time.perf_counter() - began) / steps)
    medians = {name: 1e3 * statistics.median(times) for name, times in seconds.items()}
    return {
        "network": network,
        "data": data,
        "batch": BATCHES[data],
        "seeds": seeds,
        "turns": turns,
        "steps": steps,
        "milliseconds": medians,
        "largest_difference_after_a_step": apart,
        "gain": medians["one after another"] / medians["one call"],
    }


def table(report: dict[str, Any]) -> str:
    """Returns the report as a Markdown table."""
    lines = [
        "| network | data | batch | seeds | one after another, ms | one call, ms | gain |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in report["rows"]:
        times = row["milliseconds"]
        lines.append(
            f"| {row['network']} | {row['data']} | {row['batch']} | {row['seeds']} "
            f"| {times['one after another']:.1f} | {times['one call']:.1f} | {row['gain']:.2f} |"
        )
    return "\n".join([*lines, "", f"{report['machine']}, jax {report['jax']}."])


def main() -> None:
    """Runs the program."""
    parser = reports.parser(__doc__, "seeds.json")
    parser.add_argument("--networks", nargs="+", default=["lenet", "mobilenet"])
    parser.add_argument("--data", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--seeds", type=at_least(2), default=4)
    parser.add_argument("--turns", type=at_least(1), default=7)
    parser.add_argument("--steps", type=at_least(1), default=4, help="of a turn")
    args = reports.parsed(parser, table)
    memory.configure_malloc()
    compilation_cache.use_compilation_cache()
    rows = []
    for network in timing.known(args.networks):
        for data in args.data:
            rows.append(measure(network, data, args.seeds, args.turns, args.steps))
            print(json.dumps(rows[-1]), flush=True)
    report = {"least_gain": LEAST_GAIN, "rows": rows}
    print(table(report | reports.made_by()))
    reports.write(args.out, report)


if __name__ == "__main__":
    cli.script(main)
