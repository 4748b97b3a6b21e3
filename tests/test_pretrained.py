"""Weights of a finished run: made, loaded, used to classify; and those that the package has."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn import data, models
from jaxcnn.commands import parser, predict
from jaxcnn.config import schema
from jaxcnn.data import locate
from jaxcnn.errors import UserError
from jaxcnn.evaluate import sources
from jaxcnn.evaluate.classifier import Classifier, Network
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import weights
from jaxcnn.models import lenet, pretrained, safetensors
from jaxcnn.train import fit

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "tests" / "data" / "pretrained.npz"
MAX_BYTES = 8_000_000


@pytest.fixture(scope="module", autouse=True)
def stock_lenet():
    """Compiles several times faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lenet.VARIANTS, "lenet", (lenet.LeNet, {"ops": "stock"}))
        yield


@pytest.fixture(scope="module")
def script():
    """scripts/dev/pretrained.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts" / "dev"))
        import pretrained as module
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A LeNet that has seen 512 digits once."""
    config = schema.use_dataset(schema.default_config(), "digits")
    config.dataset.train_split = "train[:512]"
    config.model.name = "lenet"
    config.optim.warmup_epochs = 0.0
    config.train.epochs = 1
    config.train.plots = False
    folder = tmp_path_factory.mktemp("finished") / "run"
    fit.fit(config, data.load(**config.dataset), folder)
    return folder


@pytest.fixture(scope="module")
def made(finished, script):
    """The weights of that run, as the script makes them."""
    return script.make(Run(finished))


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """An empty folder in place of the package's weights."""
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def installed(shipped, made, script):
    """The folder with the weights of that run."""
    script.write([made])
    return shipped


def _images(count=20):
    return data.load("digits", data_dir="", train_split="train", eval_split="test").eval.images[
        :count
    ]


def _of_run(finished, images):
    _, network = sources.trained(Run(finished), pytest.fail)
    return Classifier(network, len(images)).probabilities(images)


def test_the_card_says_what_the_weights_are(installed, finished):
    path = installed / "lenet-digits.safetensors"
    card = json.loads(safetensors.read(path).metadata["card"])
    assert card == json.loads(path.with_suffix(".json").read_text())
    summary = json.loads((finished / "summary.json").read_text())
    assert card["accuracy"]["float32"] == pytest.approx(summary["eval_accuracy"])
    assert card["accuracy"]["float16"] == pytest.approx(summary["eval_accuracy"], abs=0.005)
    assert card["accuracy"]["images"] == 360 and card["accuracy"]["split"] == "test"
    assert (card["epochs"], card["step"], card["seed"]) == (1, summary["step"], 0)
    config = json.loads((finished / "config.json").read_text())
    assert card["config"] == config and card["mean"] == config["dataset"]["mean"]
    assert card["class_names"] == list("0123456789") and card["image_shape"] == [32, 32, 3]
    assert card["data"]["fingerprint"] == config["dataset"]["fingerprint"]
    assert card["environment"]["packages"]["jax"] and "host" not in card["environment"]
    assert card["licence"]["weights"] == "Apache-2.0" and "CC BY" in card["licence"]["data"]


def test_the_place_of_the_data_stays_out_of_the_card(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    config = json.loads((folder / "config.json").read_text())
    config["dataset"]["data_dir"] = "/home/somebody/data"
    (folder / "config.json").write_text(json.dumps(config))
    assert "somebody" not in json.dumps(weights.card(Run(folder), "name", 1))


def test_the_same_run_gives_the_same_bytes(installed, made, script):
    path = installed / "lenet-digits.safetensors"
    before = path.read_bytes()
    path.unlink()
    script.write([made])
    assert path.read_bytes() == before


def test_parameters_take_16_bits_where_they_fit_and_statistics_32():
    ones = np.ones(3, np.float32)
    found = weights.as_float16(
        {"params": {"a": {"kernel": ones / 3, "bias": ones * 1e5}}, "batch_stats": {"a": ones}}
    )
    assert {name: array.dtype.name for name, array in found.items()} == {
        "params/a/kernel": "float16",
        "params/a/bias": "float32",
        "batch_stats/a": "float32",
    }
    np.testing.assert_allclose(found["params/a/kernel"], 1 / 3, rtol=2**-11)


@pytest.mark.parametrize(
    ("fingerprint", "words"),
    [
        ("cifar10/3.0.2 sha256:0123456789abcdef", "the published images"),
        ("cifar10/3.0.2 modified sha256:298b7c7a7a12f793", "JPEG copy"),
        ("cifar10/3.0.2 modified sha256:0123456789abcdef", "not those that were published"),
    ],
)
def test_a_changed_copy_of_the_data_is_named(fingerprint, words):
    assert words in weights.copy_of(fingerprint)


def test_loaded_weights_give_what_the_run_gives(installed, finished, made):
    images = _images()
    loaded = models.load_pretrained("lenet-digits")
    found = loaded.predict(images)
    assert found.dtype == np.float32 and found.shape == (20, 10)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    expected = _of_run(finished, images)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert (found.argmax(1) == expected.argmax(1)).all()
    # The same numbers by the classifier of runs: all that is left are the 16 bits.
    same = Classifier(
        Network(loaded.module, loaded.variables, loaded.pixel_stats, loaded.image_shape), 20
    )
    np.testing.assert_allclose(found, same.probabilities(images), atol=1e-6)
    assert loaded.class_names == Run(finished).class_names


def test_a_file_is_loaded_by_its_path(installed):
    path = str(installed / "lenet-digits.safetensors")
    assert models.load_pretrained(path).card == models.load_pretrained("lenet-digits").card


def test_predict_prints_the_same_for_weights_as_for_their_run(
    installed, finished, command, tmp_path
):
    for index, image in enumerate(_images(3)):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    files = str(tmp_path / "*.png")
    code, out, _ = command("predict", str(finished), files, "--json")
    expected = json.loads(out)["predictions"]
    assert code == 0 and len(expected) == 3
    code, out, error = command("predict", files, "--pretrained", "lenet-digits", "--json")
    found = json.loads(out)
    assert (code, error, found["run"]) == (0, [], "lenet-digits")
    for one, other in zip(found["predictions"], expected, strict=True):
        assert (one["file"], one["class"]) == (other["file"], other["class"])
        shown = [[entry["probability"] for entry in each["top"]] for each in (one, other)]
        np.testing.assert_allclose(*shown, atol=5e-3)
    picture = tmp_path / "picture.png"
    given = ("--pretrained", "lenet-digits", str(tmp_path / "0.png"), str(tmp_path / "1.png"))
    code, out, _ = command("predict", *given, "--picture", str(picture))
    assert code == 0 and len(out.splitlines()) == 2 and picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ([], "run, images"),
        (["run"], "images"),
        (["--pretrained", "lenet"], "images"),
        (["run", "--json"], "images"),
    ],
)
def test_predict_without_images_is_a_usage_mistake(arguments, missing, command):
    code, _, (line,) = command("predict", *arguments)
    assert code == 2 and f"required: {missing}; see jaxcnn predict --help" in line


@pytest.mark.parametrize(
    ("arguments", "run", "images"),
    [
        ("run a.png --json b.png", "run", ["a.png", "b.png"]),
        ("run --json -- -a.png --json", "run", ["-a.png", "--json"]),
        ("-- run -a.png", "run", ["-a.png"]),
        ("--pretrained=x a.png", "a.png", []),
        ("a.png --pretrained x b.png", "a.png", ["b.png"]),
        ("--pretrained x -- -a.png -b.png", "-a.png", ["-b.png"]),
    ],
)
def test_images_stand_before_and_after_options_and_may_begin_with_a_dash(arguments, run, images):
    verb = parser.Parser("predict", predict.__doc__)
    predict.add_arguments(verb)
    found = verb.parse(arguments.split())
    assert (found.run, found.images) == (run, images)


def test_a_wrong_name_is_refused_with_those_that_exist(installed, command):
    code, _, (line,) = command("predict", "--pretrained", "lenett", "a.png")
    assert code == 1 and "'lenett' is none of the weights" in line and "lenet-digits" in line


def test_a_version_without_weights_says_so(shipped):
    with pytest.raises(UserError, match="there are none, name a .safetensors file"):
        models.load_pretrained("lenet")


def _changed(installed, change):
    """Returns the path of a copy whose arrays and card `change` has changed."""
    arrays, metadata = safetensors.read(installed / "lenet-digits.safetensors")
    card = json.loads(metadata["card"])
    arrays = dict(arrays)
    text = change(arrays, card)
    path = installed / "changed.safetensors"
    safetensors.write(path, arrays, {"card": json.dumps(card)} if text is None else text)
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays, card: {}, "has no card"),
        (lambda arrays, card: {"card": "[1]"}, "no JSON object .it is no object"),
        (lambda arrays, card: {"card": "{"}, "no JSON object"),
        (lambda arrays, card: card.pop("network") and None, "'network'"),
        (lambda arrays, card: card["network"].update(name="lenot"), "'lenot' is unknown"),
        (lambda arrays, card: card["network"].update(width=2.0), "no option of lenet"),
        (lambda arrays, card: card["network"].update(dtype="text"), "not one that this version"),
        (lambda arrays, card: card.update(class_names=["a"]), "classes, means and deviations"),
        (lambda arrays, card: card.update(image_shape=[32]), "not one that this version reads"),
        (lambda arrays, card: card.update(image_shape=[8, 8, 3]), "not one that this version"),
        (lambda arrays, card: card.update(mean=["a"]), "not one that this version reads"),
        (
            lambda arrays, card: arrays.update({"params/dense1/bias": np.zeros(119)}),
            r"params/dense1/bias is \[119\] in place of \[120\]",
        ),
        (lambda arrays, card: arrays.pop("params/dense1/bias") is None or None, "is missing"),
        (lambda arrays, card: arrays.update(other=np.zeros(1)), "other is unknown"),
    ],
)
def test_a_file_that_is_not_what_its_card_says_is_refused(installed, change, message):
    with pytest.raises(UserError, match=message) as error:
        models.load_pretrained(_changed(installed, change))
    assert "changed.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_a_refusal_names_three_arrays_and_counts_the_others():
    needed = {f"a{index}": (1,) for index in range(5)}
    assert pretrained.misfits(needed, {}) == (
        "a0 is missing, a1 is missing, a2 is missing and 2 more"
    )


@pytest.mark.parametrize("images", [np.zeros((1, 32, 32, 3), np.float32), np.zeros((32, 32, 3))])
def test_other_images_are_refused(installed, images):
    with pytest.raises(UserError, match=r"takes uint8 images \[B, 32, 32, 3\], not float"):
        models.load_pretrained("lenet-digits").predict(images)


def _copy(finished, folder, **config):
    shutil.copytree(finished, folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | config))
    return Run(folder)


def test_a_run_of_another_seed_is_refused(script, finished, tmp_path):
    with pytest.raises(UserError, match="has seed 1: only seed 0"):
        script.make(_copy(finished, tmp_path / "run", seed=1))


def test_an_unfinished_run_is_refused(script, finished, tmp_path):
    run = _copy(finished, tmp_path / "run")
    (run.path / "summary.json").unlink()
    with pytest.raises(UserError, match="is not finished: continue"):
        script.make(run)


def test_data_that_are_not_the_run_s_are_refused(script, finished, monkeypatch):
    load = data.load
    monkeypatch.setattr(data, "load", lambda *a, **k: load(*a, **k)._replace(fingerprint="other"))
    with pytest.raises(UserError, match="here are other: name its data with --data_dir"):
        script.make(Run(finished))


def test_bits_that_cost_accuracy_are_refused(script, finished, monkeypatch):
    monkeypatch.setattr(script, "MOST_LOST", -1.0)
    with pytest.raises(UserError, match="in 16 bits, .* in 32: at most -1.0 may be lost"):
        script.make(Run(finished))


def test_weights_that_are_too_large_together_are_refused_before_any_is_written(
    script, made, installed, monkeypatch
):
    before = {path: path.read_bytes() for path in installed.iterdir()}
    monkeypatch.setattr(script, "MAX_BYTES", 200_000)
    with pytest.raises(UserError, match="at most 200,000, leave one out"):
        script.write([made._replace(name="second")])
    assert {path: path.read_bytes() for path in installed.iterdir()} == before


def test_examples_are_of_every_class_with_what_the_weights_say(script, installed):
    found = script.examples()
    labels = found["labels/digits"]
    assert sorted(labels) == sorted([*range(10)] * 2)
    probabilities = models.load_pretrained("lenet-digits").predict(found["images/digits"])
    np.testing.assert_array_equal(found["probabilities/lenet-digits"], probabilities)


# What the package has, if it has any.

NEEDED = {
    "network",
    "data",
    "mean",
    "std",
    "class_names",
    "config",
    "epochs",
    "seed",
    "accuracy",
    "environment",
    "licence",
}
SHIPPED = pretrained.names()


def test_all_weights_of_the_package_are_small():
    files = list(pretrained.WEIGHTS.glob("*"))
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    assert {path.stem for path in files if path.suffix == ".json"} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_of_the_package_have_a_whole_card(name):
    loaded = models.load_pretrained(name)  # refuses what does not fit
    card = loaded.card
    assert all(card.get(key) is not None for key in NEEDED) and card["seed"] == 0
    assert card == json.loads((pretrained.WEIGHTS / f"{name}.json").read_text())
    reached = card["accuracy"]
    assert reached["split"] == "test" and reached["images"] > 0
    assert reached["float16"] >= reached["float32"] - 0.001
    assert card["licence"]["weights"] and card["licence"]["data"]
    assert ("modified" in card["data"]["fingerprint"]) == (
        card["data"]["copy"] != "the published images"
    )
    assert "/" not in card["config"]["dataset"]["data_dir"]


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_of_the_package_say_of_20_images_what_they_said_when_made(name):
    with np.load(EXAMPLES) as known:
        images = known[f"images/{models.load_pretrained(name).card['data']['name']}"]
        expected = known[f"probabilities/{name}"]
    found = models.load_pretrained(name).predict(images)
    assert len(images) == 20
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_weights_of_the_package_reach_the_accuracy_of_their_card(name):
    loaded = models.load_pretrained(name)
    source = loaded.card["data"]["name"]
    if locate.find(locate.data_root(os.environ.get(locate.DATA_DIR_VARIABLE, "")), source) is None:
        pytest.skip(f"{source} is not prepared here")
    dataset = data.load(source, data_dir="", train_split="train", eval_split="test[:1000]")
    hits = [
        loaded.predict(dataset.eval.images[start : start + 100]).argmax(1)
        == dataset.eval.labels[start : start + 100]
        for start in range(0, 1000, 100)
    ]
    if dataset.fingerprint == loaded.card["data"]["fingerprint"]:
        assert np.mean(hits) == pytest.approx(loaded.card["accuracy"]["float16"], abs=0.015)
    else:  # the published pixels where the weights saw a copy, or the other way round
        assert np.mean(hits) > loaded.card["accuracy"]["float16"] - 0.05
