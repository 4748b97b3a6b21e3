"""Several devices in one process: the same training, the right collectives, less memory."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jax.sharding import PartitionSpec

from jaxcnn.runtime import launch, sharding

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "checks"))
import devices as check_devices  # noqa: E402 (a script, not a module of the package)

# Prints facts about the compiled steps on 8 devices; argv: family, then layouts as JSON.
PROGRAM = """
import json, sys
sys.path[:0] = ["tests"]
import jax, numpy as np
from conftest import SMALL, SMALL_FAST, random_dataset, small_settings
from test_steps import _optimizer
from jaxcnn.ops.conv import xla
from jaxcnn.runtime import sharding
from jaxcnn.train.programs import Programs
family, devices, layouts = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
networks = SMALL if layouts.pop("stock") else SMALL_FAST
xla.chunk_size = lambda *_: 3  # chunks that neither the batch nor a device divides by
dataset = random_dataset(train=256)
for name, layout in layouts.items():
    layout = {"batch_size": 64, "eval_batch_size": 16, **layout}
    programs = Programs(
        small_settings(dataset, **layout), networks[family], _optimizer(), dataset,
        sharding.data_mesh(jax.devices()[:devices]),
    )
    state = programs.init()
    optimizer_bytes = sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.opt_state)
    )
    for call in programs.calls(np.arange(256, dtype=np.int32).reshape(4, 64)):
        state = programs.train(state, call)
    print(json.dumps({
        "name": name,
        "hlo": programs.train_program.as_text(),
        "parameters": [leaf.shape for leaf in jax.tree.leaves(state.params)],
        "optimizer_bytes": optimizer_bytes,
        "params": np.concatenate(
            [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)]).tolist(),
        "means": np.concatenate(
            [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.batch_stats)]
            or [np.zeros(0)]).tolist(),
    }))
"""


def facts(family, layouts, devices=8, stock=False):
    """Returns what PROGRAM prints, by name of the layout."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            family,
            str(devices),
            json.dumps(layouts | {"stock": stock}),
        ],
        env=launch.environment(0, 8, False),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {line["name"]: line for line in lines}


def collectives(hlo):
    """Returns the shapes that each kind of collective gives, by kind."""
    found = {}
    for shapes, kind in re.findall(
        r"= (\S+|\(.*?\)) "
        r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(",
        hlo,
    ):
        sizes = re.findall(r"[a-z]+\d*\[([\d,]*)\]", shapes)
        found.setdefault(kind, []).extend(
            tuple(int(n) for n in size.split(",") if n) for size in sizes
        )
    return found


def test_the_search_for_collectives_finds_them():
    hlo = """
      %a = f32[8,3]{1,0} all-gather(%x), channel_id=1
      %b = (f32[]{}, s32[4]{0}, /*index=2*/f32[2,2]{1,0}) all-reduce(%y, %z), channel_id=2
    """
    assert collectives(hlo) == {"all-gather": [(8, 3)], "all-reduce": [(), (4,), (2, 2)]}


@pytest.mark.parametrize(
    "family",
    [
        "mobilenet",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("lenet", "resnet", "densenet")),
    ],
)
def test_gradients_are_reduced_and_neither_activations_nor_data_are_gathered(family):
    layouts = {"plain": {}, "sharded": {"shard_optimizer": True}}
    if family != "mobilenet":
        layouts |= {"micro": {"grad_accum_steps": 2}, "calls": {"steps_per_call": 2}}
        layouts |= {"local": {"batch_norm": "local"}}
    results = facts(family, layouts)
    for name, result in results.items():
        found = collectives(result["hlo"])
        sizes = [math.prod(shape) for shape in found["all-reduce"]]
        parameters = sum(math.prod(shape) for shape in result["parameters"])
        assert sum(sizes) >= parameters, name  # the gradients, and sums of the norms
        assert not {"all-to-all", "collective-permute"} & set(found), name
        gathered = {math.prod(shape) for shape in found.get("all-gather", [])}
        if name == "sharded":  # the updates of the parameters, from where they were computed
            assert gathered <= {math.prod(shape) for shape in result["parameters"]}
            assert gathered
        else:
            assert not gathered, name
    sharded, plain = results["sharded"], results["plain"]
    # A momentum of each parameter, a part of it on each of the 8 where an axis divides by them.
    whole = [4 * math.prod(shape) for shape in plain["parameters"]]
    divided = [any(axis % 8 == 0 for axis in shape) for shape in plain["parameters"]]
    saved = sum(
        size * 7 // 8 for size, is_divided in zip(whole, divided, strict=True) if is_divided
    )
    assert plain["optimizer_bytes"] - sharded["optimizer_bytes"] == saved > 0.7 * sum(whole)
    for a, b in zip(sharded["params"], plain["params"], strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


@pytest.mark.slow
@pytest.mark.ci
def test_local_norms_differ_from_global_ones_and_exchange_less_often():
    layouts = {"global": {}, "local": {"batch_norm": "local"}}
    two = facts("mobilenet", layouts, devices=2, stock=True)
    whole, local = two["global"], two["local"]
    assert local["params"] != pytest.approx(whole["params"], rel=1e-2, abs=1e-3)
    # What is left, running statistics and gradients, waits for nothing and is exchanged together.
    exchanges = [len(re.findall(r" all-reduce(?:-start)?\(", r["hlo"])) for r in (local, whole)]
    assert exchanges[0] < exchanges[1]


@pytest.mark.slow
def test_on_one_device_local_norms_are_global():
    layouts = {"global": {}, "local": {"batch_norm": "local"}}
    one = facts("mobilenet", layouts, devices=1, stock=True)
    assert one["global"]["params"] == pytest.approx(one["local"]["params"], rel=1e-6)
    assert one["global"]["means"] == pytest.approx(one["local"]["means"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.ci
def test_a_training_is_the_same_on_1_and_8_devices():
    results = check_devices.run(["mobilenet"], [1, 8], 3, [], stock=True)
    rows = check_devices.compare(results)
    assert len(rows) == 2
    for row in rows:
        assert check_devices.is_the_same(row), row


@pytest.mark.slow
def test_a_training_is_the_same_on_any_devices_and_processes_for_50_steps():
    rows = check_devices.compare(
        check_devices.run(list(check_devices.FAMILIES), [1, 2, 4, 8], 50, [2, 4])
    )
    assert len(rows) == 4 * 6
    for row in rows:
        assert check_devices.is_the_same(row), row


def test_the_comparison_of_trainings_can_fail():
    one = {"family": "lenet", "devices": 1, "processes": 1, "rows": [[0]], "losses": [1.0]}
    one["gradient"] = [3.0, 4.0]
    for change in ({"losses": [1 + 1e-7]}, {"rows": [[1]]}, {"gradient": [3.0, 4.001]}):
        rows = check_devices.compare([one, {**one, "devices": 8, **change}])
        assert [check_devices.is_the_same(row) for row in rows] == [True, False], change


class _Mesh:
    size = 8


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do():
    assert sharding.batch_fault("train.batch_size", 64, _Mesh) is None
    for arguments, expected in {
        (100,): "train.batch_size=100 does not .* 8 devices: .* 96 or 104$",
        (5,): "nearest that do: 8$",
        (64, 3): "8 devices x 3 micro-batches: .* 48 or 72$",
    }.items():
        size, *micro_batches = arguments
        assert re.search(
            expected, sharding.batch_fault("train.batch_size", size, _Mesh, *micro_batches)
        )


def test_an_array_is_split_along_its_longest_axis_that_divides():
    import jax

    mesh = jax.make_mesh((1,), ("data",))
    tree = {"a": jax.ShapeDtypeStruct((3, 16, 8), float), "b": jax.ShapeDtypeStruct((), float)}
    shardings = sharding.split_where_possible(tree, mesh)
    assert shardings["a"].spec == PartitionSpec(None, "data")
    assert shardings["b"].spec == PartitionSpec()
