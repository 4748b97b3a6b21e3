"""The wheel alone, in an environment and a folder of its own: every verb works on the digits.

The environment has the libraries of the one that runs the tests, but not its jaxcnn.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
import sklearn

from jaxcnn import cli
from jaxcnn.models import pretrained

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ONE_EPOCH = ("--train.epochs=1", "--config.optim.warmup_epochs=0.5")


class Installation:
    """A virtual environment with the wheel, and an empty folder to work in."""

    def __init__(self, folder):
        """Builds the wheel and installs it, without an index."""
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        alone = ["--no-index", "--no-deps"]
        wheels = folder / "wheels"
        command = [*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", wheels, ROOT]
        subprocess.run(command, check=True)
        (self.wheel,) = wheels.iterdir()
        venv.create(folder / "venv")
        self.bin, self.work = folder / "venv" / "bin", folder / "work"
        subprocess.run(
            [*pip, "--python", self.bin / "python", "install", *alone, self.wheel], check=True
        )
        # The path of the libraries, without their .pth files, one of which may name a checkout.
        (site,) = (folder / "venv" / "lib").glob("*/site-packages")
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.work.mkdir()
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._environment = {**kept, "HOME": str(folder), "JAX_PLATFORMS": "cpu"}
        self._environment["XDG_CACHE_HOME"] = str(folder / "cache")

    def run(self, program, *arguments):
        """Runs a program of the environment in the folder, and returns it when it has ended."""
        return subprocess.run(
            [self.bin / program, *map(str, arguments)],
            cwd=self.work,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )

    def start(self, *arguments):
        """Starts the command in the folder, and returns it while it runs."""
        return subprocess.Popen(
            [self.bin / "jaxcnn", *map(str, arguments)],
            cwd=self.work,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def jaxcnn(self, *arguments):
        """Runs the command, which has to succeed, and returns its standard output."""
        done = self.run("jaxcnn", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    return Installation(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def run(installation):
    """The folder of a run that `jaxcnn train` has made."""
    part = "--dataset.train_split=train[:1200]"  # the rest is for the calibration
    output = installation.jaxcnn("train", "--config", "lenet:digits", part, *ONE_EPOCH)
    assert "everything is in runs/lenet-digits" in output
    return installation.work / "runs" / "lenet-digits"


@pytest.fixture(scope="module")
def launched(installation):
    """The folder of a run of two processes that `jaxcnn launch` has started."""
    output = installation.jaxcnn(
        *("launch", "2", "--", "jaxcnn", "train", "--config=lenet:digits", *ONE_EPOCH),
        "--workdir=runs/launched",
    )
    assert len(re.findall(r"^\[0\] epoch 1/1", output, re.MULTILINE)) == 1
    return installation.work / "runs" / "launched"


def test_the_wheel_has_all_that_git_has_of_the_package_and_the_configurations(installation):
    listed = subprocess.run(
        ["git", "ls-files", "jaxcnn", "configs"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("no checkout here")
    expected = {re.sub("^configs/", "jaxcnn/configs/", file) for file in listed.stdout.splitlines()}
    with zipfile.ZipFile(installation.wheel) as wheel:
        assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert {"jaxcnn/py.typed", "jaxcnn/report/report.css"} <= expected


def test_the_package_that_is_used_comes_from_the_wheel(installation):
    done = installation.run("python", "-c", "import jaxcnn; print(jaxcnn.__file__)")
    assert Path(done.stdout).is_relative_to(installation.bin.parent), done


def test_help_of_every_verb(installation):
    assert installation.jaxcnn("--help") == installation.jaxcnn()
    for verb in cli.VERBS:
        assert "examples:" in installation.jaxcnn(verb, "--help")
    done = installation.run("python", "-m", "jaxcnn", "--version")
    assert (done.returncode, done.stdout) == (0, "jaxcnn 0.1.0\n")


def test_train(run):
    assert json.loads((run / "summary.json").read_text())["epoch"] == 1


def test_evaluate(installation, run):
    content = json.loads(installation.jaxcnn("evaluate", run, "--json"))
    summary = json.loads((run / "summary.json").read_text())
    assert content["examples"] == 360
    assert content["top1"] == pytest.approx(summary["eval_accuracy"])


def test_calibration(installation, run):
    output = installation.jaxcnn("evaluate", run, "--calibrate")
    assert "fitted to 237 held-out images, train[1200:1437]" in output
    content = json.loads((run / "trust" / "calibration.json").read_text())
    assert content["examples"] == 360
    assert (run / "trust" / "calibration.png").stat().st_size > 10_000


def test_corruptions(installation, run):
    output = installation.jaxcnn("evaluate", run, "--corruptions", "--limit=20", "--out", "corrupt")
    content = json.loads((installation.work / "corrupt" / "corruptions.json").read_text())
    assert content["examples"] == 20 and len(content["errors"]) == 15
    assert all(f"\n{name}" in output for name in content["errors"])
    assert (installation.work / "corrupt" / "corruptions.png").stat().st_size > 10_000


def test_serve(installation, run):
    """A run, and weights of the package, which have no images to show."""
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    photograph = Path(sklearn.__file__).parent / "datasets" / "images" / "flower.jpg"
    names = pretrained.names()
    weights = ["--pretrained", *names] if names else []
    with installation.start("serve", run, "--port=0", *weights) as process:
        try:
            address = process.stdout.readline().split()[0]
            assert b"Networks to try" in urllib.request.urlopen(address).read()
            listed = json.load(urllib.request.urlopen(f"{address}api/networks"))["networks"]
            assert [each["has_gallery"] for each in listed] == [True] + [False] * len(names)
            sent = urllib.request.Request(
                f"{address}api/predict?pictures=1", photograph.read_bytes()
            )
            answers = json.load(urllib.request.urlopen(sent))["networks"]
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert len(answers) == 1 + len(names)
    assert all(each["grad_cam"].startswith("data:image/png") for each in answers)


def test_predict_on_a_photograph(installation, run):
    photograph = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"
    shutil.copy(photograph, installation.work / "photo.jpg")
    output = installation.jaxcnn("predict", "runs/lenet-digits", "photo.jpg")
    name, _, shown = output.strip().partition(": ")
    found = re.findall(r"(\d) ([\d.]+) %", shown)
    percent = [float(value) for _, value in found]
    assert name == "photo.jpg" and len({digit for digit, _ in found}) == 5
    assert percent == sorted(percent, reverse=True) and sum(percent) <= 100.3


@pytest.mark.parametrize("name", pretrained.names())
def test_predict_with_weights_of_the_package(installation, name):
    photograph = Path(sklearn.__file__).parent / "datasets" / "images" / "flower.jpg"
    output = installation.jaxcnn("predict", photograph, "--pretrained", name, "--json")
    (found,) = json.loads(output)["predictions"]
    assert found["class"] in pretrained.load_pretrained(name).class_names


def test_plot(installation, run):
    installation.jaxcnn("plot", run, "--out", "pictures")
    names = {path.name for path in (installation.work / "pictures").iterdir()}
    assert {"curves.png", "confusion.png", "predictions.png"} <= names


def test_compare(installation, run, launched):
    installation.jaxcnn("compare", run, launched, "--out", "report")
    page = (installation.work / "report" / "report.html").read_text()
    assert "lenet-digits" in page and "launched" in page
    assert (ROOT / "jaxcnn" / "report" / "report.css").read_text().splitlines()[0] in page


def test_layers_of_a_name_and_of_a_run(installation, run):
    by_name = installation.jaxcnn("layers", "lenet:digits")
    assert "62,006" in by_name and by_name == installation.jaxcnn("layers", run)
    assert "853,018" in installation.jaxcnn("layers", "resnet", "--model", "resnet56")


def test_doctor(installation):
    output = installation.jaxcnn("doctor", "lenet:digits")
    assert "arrays are right" in output and "all is well" in output


def test_prepare_refuses_a_wrong_archive_in_one_line(installation):
    (installation.work / "wrong.tar.gz").write_bytes(b"no archive")
    done = installation.run("jaxcnn", "prepare", "--archive", "wrong.tar.gz", "--data_dir", "data")
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: wrong.tar.gz")


def test_launch_trains_with_two_processes(launched):
    (start,) = json.loads((launched / "environment.json").read_text())["starts"]
    assert json.loads((launched / "summary.json").read_text())["epoch"] == 1
    assert len(start["devices"]) == 2


def test_lr_find(installation):
    output = installation.jaxcnn("lr_find", "lenet:digits", "--steps", "20", "--out", "rates")
    assert re.search(r"suggestion: optim.peak_lr=[\d.e-]+$", output, re.MULTILINE)
    assert (installation.work / "rates" / "lr_find.png").stat().st_size > 10_000


def test_sweep(installation):
    values = ("--set", "train.epochs=1", "--set", "optim.warmup_epochs=0")
    rates = ("--set", "optim.peak_lr=0.02,0.05")
    output = installation.jaxcnn("sweep", "lenet:digits", *rates, *values, "--out", "sweep")
    assert "highest mean accuracy: optim.peak_lr=" in output
    report = json.loads((installation.work / "sweep" / "sweep.json").read_text())
    assert [point["eval_accuracy"]["n"] for point in report["points"]] == [1, 1]


def test_study(installation):
    output = installation.jaxcnn("study", "--status")
    assert "lenet-seed0" in output and "left: 5 of 5 trainings" in output
