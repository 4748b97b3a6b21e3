"""`jaxcnn export`: other formats compute what the run computes, or are not written."""

import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import random_images
from exchange_helpers import CASES, SHAPE, Torch, described, layout, random_state

from jaxcnn import models
from jaxcnn.data import Dataset, Split
from jaxcnn.errors import UserError
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import (
    benchmark,
    exporting,
    importing,
    int8,
    match,
    network,
    onnx_file,
    sources,
    stablehlo,
    state_dict,
    subject,
    torch_file,
    weights,
)
from jaxcnn.exchange.subject import Subject
from jaxcnn.models import load_pretrained
from jaxcnn.ops.pixels import PixelStats, normalize

STATS = PixelStats((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def small_state(case):
    """Random weights as the source has them."""
    small, name, source, _ = CASES[case]
    return random_state(described(small, name), layout(source, name))


def small_subject(case):
    """A small network with `small_state`, described as that of a run."""
    small, name, source, _ = CASES[case]
    into = described(small, name)
    run = SimpleNamespace(
        settings=SimpleNamespace(pixel_stats=STATS), image_shape=SHAPE, name="small"
    )
    return Subject(run, 5, into, match.match(small_state(case), into, source).arrays)


def expected_logits(case, images):
    """What the source's code computes with `small_state`, float64."""
    normal = (images / 255 - np.array(STATS.mean)) / np.array(STATS.std)
    return CASES[case][3](Torch(small_state(case)), normal.transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A run of LeNet with random weights, whose data are not there."""
    into = network.describe("lenet", models.create("lenet"), (32, 32, 3))
    state = random_state(into, layout("kuangliu", "lenet"))
    folder = tmp_path_factory.mktemp("runs")
    torch_file.write(folder / "weights.pt", state)
    settings = importing.settings("lenet", {}, "cifar10", STATS, folder / "weights.pt")
    importing.write_run(folder / "run", settings, match.match(state, into).arrays, {})
    return folder / "run"


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("case", CASES)
def test_a_state_dict_that_was_imported_is_exported_as_it_was(case):
    name, source = CASES[case][1:3]
    exported, state = small_subject(case), small_state(case)
    found = state_dict.as_arrays(exported, layout(source, name))
    assert found.keys() == state.keys()
    for key, array in found.items():
        if key.endswith(match.COUNTER):  # of the run, not of the source
            assert (array.dtype, array.shape, int(array)) == (np.int64, (), 5)
        else:
            assert array.tobytes() == state[key].tobytes(), key


@pytest.mark.parametrize("case", CASES)
def test_a_state_dict_is_read_back_to_the_same_bits(case, tmp_path):
    exported, source = small_subject(case), CASES[case][2]
    state_dict.write(exported, tmp_path / "net.pt", source)
    found = state_dict.read(exported, tmp_path / "net.pt", source)
    assert found.keys() == exported.arrays.keys()
    for path, array in exported.arrays.items():
        assert found[path].tobytes() == array.tobytes(), path


def test_every_network_that_public_code_has_too_has_names_in_pytorch():
    for name in models.FAMILY:
        if name.startswith(("plain", "speedrun")):
            with pytest.raises(UserError, match=f"no known PyTorch code has {name}"):
                state_dict.layout_for(name)
        else:
            assert not state_dict.layout_for(name).refusal
    with pytest.raises(UserError, match="has resnet20 without shortcuts, so its layers"):
        state_dict.layout_for("resnet20", is_plain=True)
    with pytest.raises(UserError, match="--names=huyvnphan has no resnet18 .* choose kuangliu, "):
        state_dict.layout_for("resnet18", "huyvnphan")
    assert set(sources.SOURCES) == {one.source for one in sources.LAYOUTS}


@pytest.mark.parametrize(("case", "counts"), [("option A", (5,)), ("newest first", (1, 5))])
def test_stablehlo_takes_any_batch_and_normalizes_inside(case, counts, tmp_path):
    stablehlo.write(small_subject(case), tmp_path / "net.stablehlo")
    program, images = stablehlo.read(tmp_path / "net.stablehlo"), random_images(5)
    for count in counts:
        expected = expected_logits(case, images[:count])
        assert exporting.compare(expected, program(images[:count])).difference < 1e-5


def test_stablehlo_is_for_all_platforms_and_calls_no_library(tmp_path):
    stablehlo.write(small_subject("mobilenet"), tmp_path / "net.stablehlo")
    content = bytearray((tmp_path / "net.stablehlo").read_bytes())
    found = jax.export.deserialize(content)
    assert found.platforms == ("cpu", "cuda", "tpu")
    assert "uint8[b,16,16,3]" in str(found.in_avals[0])
    called = set(re.findall(r"custom_call @(\w+)", found.mlir_module()))
    assert called <= {"shape_assertion"}, called  # JAX's check that the batch is not empty


@pytest.mark.parametrize("case", CASES)
def test_onnx_computes_the_same_for_any_batch(case, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    exported = small_subject(case)
    monkeypatch.setattr(weights, "card", lambda *arguments: {"name": "small"})
    onnx_file.write(exported, tmp_path / "net.onnx")
    predict = onnx_file.read(tmp_path / "net.onnx")
    images = random_images(5)
    found = exporting.compare(expected_logits(case, images), predict(images))
    assert found.difference < 1e-5 and found.same_classes == 5
    assert exporting.compare(predict(images)[:1], predict(images[:1])).difference < 1e-5


def test_an_onnx_file_says_what_it_is(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(weights, "card", lambda *arguments: {"name": "small"})
    for name in ("a", "b"):
        onnx_file.write(small_subject("mobilenet"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    model = onnx.load(tmp_path / "a")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", onnx_graph().OPSET)]
    sizes = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", 16, 16, 3]
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "card": '{"name": "small"}'
    }
    depthwise = [node for node in model.graph.node if node.name.endswith("depthwise_conv")]
    groups = [onnx.helper.get_node_attr_value(node, "group") for node in depthwise]
    assert groups == [32, 16]


def onnx_graph():
    """The module, which imports onnx."""
    from jaxcnn.exchange import onnx_graph

    return onnx_graph


def test_a_missing_library_is_named(imported, tmp_path, monkeypatch, command):
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None)
    out = f"--out={tmp_path / 'net.onnx'}"
    code, _, errors = command("export", str(imported), "--format=onnx", out)
    assert code == 1 and "needs the library onnx: install it with pip install" in errors[0]


def test_a_damaged_onnx_file_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "net.onnx").write_bytes(b"no")
    with pytest.raises(UserError, match="net.onnx is no model that onnxruntime takes"):
        onnx_file.read(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("format", "suffix", "more"),
    [("onnx", "onnx", ()), ("stablehlo", "stablehlo", ()), ("safetensors", "safetensors", ()),
     ("torch", "pt", ("--names=kuangliu",))],
)  # fmt: skip
def test_the_command_writes_a_file_that_computes_the_same(
    format, suffix, more, imported, tmp_path, command
):
    out = tmp_path / f"net.{suffix}"
    code, said, errors = command(
        "export", str(imported), f"--format={format}", f"--out={out}", *more
    )
    assert (code, errors) == (0, [])
    assert f"wrote {out}: lenet, step 0, 62,006 parameters; {out.stat().st_size:,} bytes" in said
    if format in ("onnx", "stablehlo"):
        assert "100 of 100 classes are the same, on 100 random images (those of cifar10" in said
    else:
        assert "read back: all 10 arrays have the same bits" in said
    is_torch = format == "torch"
    assert ("normalized by mean 0.5, 0.4, 0.3 and std 0.2, 0.25, 0.3" in said) == is_torch
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    images = random_images(4, 32)
    exported = subject.of_run(Run(imported), print)
    expected = exported.logits(images)
    if format == "onnx":
        logits = onnx_file.read(out)(images)
    elif format == "stablehlo":
        logits = stablehlo.read(out)(images)
    elif format == "torch":
        t = Torch(torch_file.read(out))
        normal = np.asarray(normalize(images, STATS)).transpose(0, 3, 1, 2)
        logits = CASES["lenet"][3](t, normal.astype(np.float64))
    else:
        loaded = load_pretrained(str(out))
        assert loaded.card["data"]["copy"] == "unknown" and loaded.pixel_stats == STATS
        np.testing.assert_allclose(
            loaded.predict(images), np.asarray(jax.nn.softmax(expected)), atol=1e-6
        )
        return
    assert exporting.compare(expected, np.asarray(logits)).difference < 1e-5


def test_a_safetensors_file_of_a_run_becomes_the_same_run(imported, tmp_path, command):
    out, again = tmp_path / "net.safetensors", tmp_path / "again"
    command("export", str(imported), "--format=safetensors", f"--out={out}")
    code, said, errors = command("import", str(out), "--model=lenet", f"--out={again}")
    assert (code, errors) == (0, []) and "matched by the names of this program" in said
    before, after = Run(imported), Run(again)
    assert after.settings.pixel_stats == before.settings.pixel_stats
    for path, array in network.flatten(before.trained[1]).items():
        assert array.tobytes() == network.flatten(after.trained[1])[path].tobytes()


@pytest.mark.parametrize("format", ["torch", "stablehlo"])
def test_a_file_that_is_something_else_is_not_written(format, imported, tmp_path, monkeypatch):
    exported = subject.of_run(Run(imported), print)
    bias = exported.arrays["params/conv1/bias"]
    wrong = exported._replace(arrays={**exported.arrays, "params/conv1/bias": bias + 0.1})
    out = tmp_path / "net"
    out.write_bytes(b"before")
    if format == "torch":
        monkeypatch.setattr(state_dict, "read", lambda *arguments: wrong.arrays)
        with pytest.raises(UserError, match=r"other numbers \(params/conv1/bias\)"):
            exporting.export_weights(exported, format, out)
    else:
        write = stablehlo.write
        monkeypatch.setattr(stablehlo, "write", lambda _, path: write(wrong, path))
        with pytest.raises(UserError, match="other logits: they differ by .* is not written"):
            exporting.export_program(exported, format, out, random_images(10, 32))
    assert out.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_logits_are_compared_by_the_largest():
    expected = np.array([[1.0, -4.0], [2.0, 3.0]])
    found = exporting.compare(expected, expected + [[0, 0.004], [2, 0]])
    assert found.difference == pytest.approx(0.5) and (found.same_classes, found.images) == (1, 2)
    assert np.isnan(exporting.compare(expected, expected * np.nan).difference)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format=torch", "--out=net.onnx"], 1, "its ending is '.onnx': use .pt or .pth"),
        (["--format=torch", "--out=no/net.pt"], 1, "there is no folder no"),
        (["--format=torch", "--out=net.pt", "--names=chenyaofo"], 1, "has no lenet that computes"),
        (["--format=stablehlo", "--out=n.stablehlo", "--names=kuangliu"], 2, "--names belongs to"),
        (["--format=torch", "--out=net.pt", "--best"], 1, "has no best epoch"),
        (["--format=keras", "--out=net.pt"], 2, "invalid choice: 'keras'"),
        (["--out=net.pt"], 2, "one of --format and --benchmark is required"),
        (["--format=torch", "--benchmark"], 2, "one of --format and --benchmark is required"),
        (["--format=torch"], 2, "--format needs --out"),
        (["--format=torch", "--out=net.pt", "--int8"], 2, "--int8 belongs to --format onnx"),
        (["--benchmark", "--out=speeds.txt"], 1, "its ending is '.txt': use .json"),
        (["--format=onnx", "--out=n.onnx", "--int8"], 1, "cifar10 is not prepared here"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments, code, message, imported, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    found, _, errors = command("export", str(imported), *arguments)
    assert (found, len(errors)) == (code, 1) and message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_evaluation_images_are_used_where_they_are(monkeypatch):
    settings = SimpleNamespace(dataset=SimpleNamespace(name="digits", data_dir="", eval_split="t"))
    images = random_images(7)
    data = SimpleNamespace(eval=SimpleNamespace(images=images))
    run = SimpleNamespace(settings=settings, image_shape=SHAPE, dataset=lambda data_dir: data)
    found, which = subject.images_of(Subject(run, 0, None, {}), count=5)
    assert which == "5 images of digits t" and found.tobytes() == images[:5].tobytes()

    def refuse(data_dir):
        raise UserError("other classes")

    run.dataset = refuse
    found, which = subject.images_of(Subject(run, 0, None, {}), count=5)
    assert which == "5 random images (those of digits cannot be used)" and found.shape == (
        5,
        *SHAPE,
    )


@pytest.fixture(scope="module")
def eight_bits(tmp_path_factory):
    """A MobileNet, and images labeled by its own float logits, so that its accuracy is 1."""
    pytest.importorskip("onnxruntime")
    exported, images = small_subject("mobilenet"), random_images(96)
    labels = expected_logits("mobilenet", images).argmax(-1)
    split = Split(images, labels.astype(np.int32))
    return exported, Dataset(split, split, tuple("abcdefghij"), "noise")


def test_eight_bits_keep_most_classes_and_a_quarter_of_the_bytes(eight_bits, tmp_path, monkeypatch):
    exported, data = eight_bits
    monkeypatch.setattr(weights, "card", lambda *arguments: {"name": "small"})
    monkeypatch.setattr(int8, "LARGEST_LOSS", 20.0)
    scores = int8.export(exported, tmp_path / "net.onnx", data)
    assert scores.float_accuracy == 1 and scores.int8_accuracy > 0.8
    assert (scores.images, scores.calibration_images) == (96, 96)
    import onnx

    model = onnx.load(tmp_path / "net.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    assert "BatchNormalization" not in kinds  # folded into the convolutions before
    kernels = [a for a in model.graph.initializer if len(a.dims) == 4 and a.dims[0] > 1]
    assert kernels and {a.data_type for a in kernels} == {onnx.TensorProto.INT8}
    assert [entry.key for entry in model.metadata_props] == ["card"]
    logits = onnx_file.read(tmp_path / "net.onnx")(data.eval.images[:3])
    assert logits.shape == (3, 10) and logits.dtype == np.float32


def test_eight_bits_that_lose_too_much_are_not_written(eight_bits, tmp_path, monkeypatch):
    exported, data = eight_bits
    exported.run.path = "run"
    monkeypatch.setattr(weights, "card", lambda *arguments: {"name": "small"})
    monkeypatch.setattr(int8, "LARGEST_LOSS", -1.0)
    with pytest.raises(UserError, match="accuracy in place of 100.00 %.*net.onnx is not written"):
        int8.export(exported, tmp_path / "net.onnx", data)
    assert list(tmp_path.iterdir()) == []


def test_a_benchmark_times_every_program(imported, tmp_path, monkeypatch, command):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(benchmark, "_median_seconds", lambda predict, images: len(images) / 64)
    code, said, _ = command(
        "export", str(imported), "--benchmark", f"--out={tmp_path / 'speeds.json'}"
    )
    report = json.loads((tmp_path / "speeds.json").read_text())
    assert code == 0 and [row["format"] for row in report["formats"]] == [
        *("jaxcnn", "stablehlo", "onnx")
    ]
    for row in report["formats"]:
        assert row["latency_ms"] == 1000 / 64 and row["images_per_second"] == 64
        assert row["format"] in said
    assert (report["network"], report["parameters"]) == ("lenet", 62006)


def test_the_median_of_enough_calls_counts(monkeypatch):
    clock = iter(np.cumsum([0, *[1, 2, 3] * 100]) / 1000)
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(benchmark, "SECONDS", 0.0)
    calls = []
    benchmark._median_seconds(calls.append, "images")
    assert len(calls) == 1 + benchmark.LEAST_CALLS  # the first compiles
