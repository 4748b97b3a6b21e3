"""`jaxcnn import`: weights of other programs compute here what they compute there."""

import json

import jax
import numpy as np
import pytest
from conftest import SMALL
from exchange_helpers import CASES, SHAPE, Torch, described, layout, random_state

from jaxcnn import models
from jaxcnn.data.augment import PixelStats
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import importing, match, names, network, orders, sources
from jaxcnn.exchange.network import flatten, from_torch, to_torch
from jaxcnn.exchange.torch_file import write
from jaxcnn.models import safetensors


@pytest.mark.parametrize("case", CASES)
def test_imported_weights_compute_what_the_source_computes(case):
    small, name, source, theirs = CASES[case]
    into = described(small, name)
    state = random_state(into, layout(source, name))
    matched = match.match(state, into, source)
    assert not matched.faults and set(matched.arrays) == set(into.shapes)
    images = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    expected = theirs(Torch(state), images.transpose(0, 3, 1, 2).astype(np.float64))
    variables = network.unflatten(matched.arrays)
    logits = jax.jit(lambda v, x: SMALL[small].apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_an_order_of_channels_is_undone_by_its_inverse(case):
    small, name, source, _ = CASES[case]
    into = described(small, name)
    for layer, order in layout(source, name).order(into).items():
        (shape,) = (
            into.shapes[next(iter(found.arrays))] for found in into.layers if found.name == layer
        )
        array = np.arange(np.prod(shape)).reshape(shape)
        there = orders.permute(array, order, inverse=True)
        np.testing.assert_array_equal(orders.permute(there, order), array)


def test_transposes_are_undone():
    for shape in ((3, 3, 5, 7), (4, 6), (5,)):
        array = np.arange(np.prod(shape)).reshape(shape)
        np.testing.assert_array_equal(from_torch(to_torch(array)), array)


@pytest.mark.parametrize("small", sorted({kind for kind, *_ in CASES.values()}))
def test_every_source_names_every_array_of_its_networks_once(small):
    stands_for = next(name for kind, name, *_ in CASES.values() if kind == small)
    into = described(small, stands_for)
    for found in sources.layouts(stands_for):
        theirs = names.of_arrays(into, names.of_layers(into, found.rows))
        assert len(set(theirs.values())) == len(into.shapes)


def test_every_network_has_a_source_but_those_without_shortcuts_and_the_speedruns():
    known = {name for name in models.FAMILY if sources.layouts(name)}
    unknown = ("plain", "speedrun")
    assert known == {name for name in models.FAMILY if not name.startswith(unknown)}


def _case(case="option B"):
    small, name, source, _ = CASES[case]
    into = described(small, name)
    return into, random_state(into, layout(source, name))


def test_a_known_source_is_found_by_its_names():
    for case in ("lenet", "option A", "option B", "kuangliu", "weiaicunzai", "newest first"):
        into, state = _case(case)
        matched = match.match(state, into)
        assert (matched.layout.source, matched.faults) == (CASES[case][2], [])


def test_names_that_two_functions_share_are_asked_for():
    into, state = _case("bottleneck")
    matched = match.match(state, into)
    assert "a pooled stem, too (huyvnphan/PyTorch_CIFAR10)" in matched.faults[0]
    assert "say --source torchvision" in matched.faults[0]
    assert "max-pooling" in match.match(state, into, "huyvnphan").faults[0]


def test_a_network_that_computes_something_else_is_refused_though_its_shapes_fit():
    into = described("densenet", "densenet121")
    state = random_state(into, layout("weiaicunzai", "densenet121"))
    matched = match.match(state, into)
    assert "transitions have no ReLU" in matched.faults[0]
    # By their order alone they would fit.
    renamed = {name.replace("features.", "f."): array for name, array in state.items()}
    assert not match.match(renamed, into).faults


def test_a_network_without_shortcuts_has_no_source():
    into = described("resnet_plain", "resnet20")
    state = random_state(into, layout("akamaster", "resnet20"))
    matched = match.match(state, into)
    assert matched.is_by_order and matched.layout is None
    assert "sources that have resnet20: none" in match.match(state, into, "akamaster").faults[0]


def test_unknown_names_are_matched_by_order_and_shape():
    into, state = _case()
    order = {layer: f"net.{number}" for number, layer in enumerate(
        dict.fromkeys(name.rpartition(".")[0] for name in state))}  # fmt: skip
    renamed = {
        f"{order[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": array
        for name, array in state.items()
    }
    matched, expected = match.match(renamed, into), match.match(state, into)
    assert matched.layout is None and not matched.faults and "order" in matched.how
    for path, array in expected.arrays.items():
        np.testing.assert_array_equal(matched.arrays[path], array)
    assert "does not keep the order" in match.match(renamed, into, is_ordered=False).faults[0]


def _change(state, name, array):
    return {**state, name: array}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda s: _change(s, "fc.weight", np.zeros((7, 16), "f4")),
            "1 of another shape (fc.weight 7",
        ),
        (lambda s: _change(s, "fc2.weight", np.zeros((7, 16), "f4")), "left over (fc2.weight)"),
        (lambda s: {n: a for n, a in s.items() if n != "fc.bias"}, "1 missing (fc.bias)"),
        (lambda s: _change(s, "fc.bias", np.full(10, np.nan, "f4")), "not all of its numbers"),
        (lambda s: _change(s, "fc.bias", np.zeros(10, "i8")), "are int64, not floats"),
        (lambda s: _change(s, "bn1.running_var", np.full(8, -1, "f4")), "a variance is negative"),
        (lambda s: {f"x.{n}": a for n, a in s.items() if "fc" in n}, "has 1 layers, resnet20b has"),
        (lambda s: {"a.weight": np.zeros((3, 3), "f4")}, "a is a dense, stem_conv a conv"),
    ],
)
def test_what_does_not_fit_is_named(change, fault):
    into, state = _case()
    matched = match.match(change(state), into)
    assert any(fault in found for found in matched.faults), matched.faults


def test_the_table_says_what_went_where_and_what_is_left_over():
    into, state = _case()
    state["fc.bias"] = state["fc.bias"].astype(np.float64)
    lines = list(match.as_text(match.match(_change(state, "aux", np.zeros(2)), into).rows))
    by_layer = {line.split()[0]: line.split() for line in lines}
    assert by_layer["stem_conv"][1:4] == ["3x3x3x8", "conv1", "8x3x3x3"]
    assert " ".join(by_layer["stem_conv"][4:]) == "OIHW to HWIO"
    assert by_layer["stage2_block1/shortcut_norm"][1:4] == ["16", "layer2.0.downsample.1", "16"]
    assert "left over" in lines[-1] and "aux" in lines[-1] and "counts of batches" in lines[-2]
    assert len(lines) == 1 + len(into.layers) + 2


def test_another_program_s_file_becomes_a_run_that_predicts(tmp_path, command):
    module = models.create("lenet")
    into = network.describe("lenet", module, (32, 32, 3))
    state = random_state(into, layout("kuangliu", "lenet"))
    write(tmp_path / "ckpt.pth", state)
    out = tmp_path / "runs" / "imported"
    code, said, _ = command("import", str(tmp_path / "ckpt.pth"), "--model=lenet", f"--out={out}")
    assert code == 0 and "channels in another order" in said
    assert "wrote" in said and "mean 0.4914, 0.4822, 0.4465" in said
    run = Run(out)
    step, variables = run.trained
    expected = match.match(state, into).arrays
    assert step == 0 and set(flatten(variables)) == set(expected)
    for path, array in flatten(variables).items():
        np.testing.assert_array_equal(array, expected[path])
    assert run.settings.pixel_stats == PixelStats((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201))
    assert run.class_names == importing.class_names("cifar10") and run.records == []
    start = json.loads((out / "environment.json").read_text())["starts"][0]
    assert start["imported"]["file"] == "ckpt.pth" and len(start["imported"]["sha256"]) == 64
    assert sorted(path.name for path in out.parent.iterdir()) == ["imported"]


def test_arrays_with_the_names_of_this_program_need_no_source(tmp_path, command):
    into = network.describe("lenet", models.create("lenet"), (32, 32, 3))
    arrays = {path: np.full(shape, 0.5, np.float16) for path, shape in into.shapes.items()}
    safetensors.write(tmp_path / "own.safetensors", arrays)
    pixels = ("--mean=0.5,0.5,0.5", "--std=0.25,0.25,0.25")
    given = ("import", str(tmp_path / "own.safetensors"), "--model=lenet")
    code, _, errors = command(*given, f"--out={tmp_path / 'a'}")
    assert code == 1 and "are not known for cifar10: give --mean" in errors[-1]
    code, said, _ = command(*given, f"--out={tmp_path / 'b'}", *pixels)
    assert code == 0 and "matched by the names of this program" in said
    _, variables = Run(tmp_path / "b").trained
    assert all((array == 0.5).all() for array in flatten(variables).values())
    assert Run(tmp_path / "b").settings.pixel_stats.std == (0.25,) * 3
    assert not (tmp_path / "a").exists()


def test_a_card_with_other_classes_is_refused(tmp_path, command):
    into = network.describe("lenet", models.create("lenet"), (32, 32, 3))
    arrays = {path: np.zeros(shape, np.float32) for path, shape in into.shapes.items()}
    card = {"class_names": list("0123456789"), "mean": [0.5] * 3, "std": [0.5] * 3}
    safetensors.write(tmp_path / "digits.safetensors", arrays, {"card": json.dumps(card)})
    code, _, errors = command(
        *("import", str(tmp_path / "digits.safetensors"), "--model=lenet"),
        f"--out={tmp_path / 'run'}",
    )
    assert code == 1 and "knows other classes (0, 1, 2, ...) than cifar10" in errors[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=lenet5"], "model.name='lenet5' is unknown"),
        (["--model=lenet", "--mean=1,2,3", "--std=1,1,1"], "--mean=1,2,3 is not allowed"),
        (["--model=lenet", "--mean=0,0,0", "--std=0,1,1"], "--std=0,1,1 is not allowed"),
        (["--model=lenet", "--mean=0,0,0"], "--mean and --std belong together"),
        (["--model=lenet", "--set=model.width=2"], "model.width is no option of lenet"),
        (["--model=lenet", "--set=seed=2"], "--set seed=2 is not allowed: an option of the"),
        (
            ["--model=lenet", "--dataset=cifar100"],
            "2 of another shape (fc3.weight 10x84, fc3.bias 10)",
        ),
        (["--model=lenet", "--source=akamaster"], "its names are not those of akamaster; sources"),
        (["--model=resnet18"], "it has 5 layers, resnet18 has 41"),
        (["--model=lenet", "--out=."], "--out=. exists: name a folder that is new"),
        (["--model=lenet", "--out=ckpt.pt/x"], "--out=ckpt.pt/x cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments, message, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    into = network.describe("lenet", models.create("lenet"), (32, 32, 3))
    write(tmp_path / "ckpt.pt", random_state(into, layout("kuangliu", "lenet")))
    code, _, errors = command("import", "ckpt.pt", "--out=new", *arguments)
    assert code == 1 and message in errors[-1] and errors[-1].startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pt"]
