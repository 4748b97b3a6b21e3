"""`jaxcnn doctor`: wrong sums, wrong steps and their consequences for a start of a training."""

import json
import os
import re
import stat
import sys
from pathlib import Path
from unittest import mock

import jax
import jaxlib
import numpy as np
import pytest
from conftest import small_settings

from jaxcnn import models, ops
from jaxcnn.commands import doctor as verb
from jaxcnn.doctor import isolated, record, step, sums
from jaxcnn.errors import UserError
from jaxcnn.models import resnet, summary
from jaxcnn.models.resnet import ResNet
from jaxcnn.ops.conv import conditions, used
from jaxcnn.ops.lowering import YNN_FUSIONS, cpu_compiler_options
from jaxcnn.ops.winograd import coefficients
from jaxcnn.runtime import compilation, sharding
from jaxcnn.train.optim import constant_sgd
from jaxcnn.train.programs import Programs

ROOT = Path(__file__).parents[1]
# ml_collections 1.1 executes a configuration file by it.
loads_a_file = pytest.mark.filterwarnings("ignore:the load_module.. method:DeprecationWarning")

RANKS = ("rank 7", "rank 8")  # may end the process
ISSUE = sums.Case("vmap of a squared product", 2**15 + 1, 3)  # jax issue 39103


@pytest.mark.parametrize("dtype", sums.DTYPES)
@pytest.mark.parametrize("kind", [kind for kind in sums.KINDS if kind not in RANKS])
def test_every_kind_of_program_is_right_with_the_options_of_this_package(kind, dtype):
    assert sums.check(sums.Case(kind, 80, 5, dtype), ops.CPU_COMPILER_OPTIONS) is None


@pytest.mark.parametrize("kind", ["sum of rows", "moments over pixels", "log of a sum of exp"])
def test_a_result_that_is_off_in_one_place_is_found_with_both_numbers(kind, monkeypatch):
    good = sums.KINDS[kind]

    def program(*operands):
        first, *others = jax.tree.leaves(good.program(*operands))
        return first.at[2].add(1), *others

    monkeypatch.setitem(sums.KINDS, kind, good._replace(program=program))
    wrong = sums.check(sums.Case(kind, 80, 5), {})
    assert wrong is not None and wrong.got == pytest.approx(wrong.expected + 1, abs=1e-5)


def test_a_result_that_is_no_number_is_wrong(monkeypatch):
    good = sums.KINDS["sum of rows"]
    bad = good._replace(program=lambda x: good.program(x) * np.nan)
    monkeypatch.setitem(sums.KINDS, "sum of rows", bad)
    assert np.isnan(sums.check(sums.Case("sum of rows", 80, 5), {}).got)


@pytest.mark.skipif(jaxlib.__version__ != "0.10.2", reason="the version that computes it wrongly")
def test_the_known_wrong_sum_is_found_and_this_package_compiles_it_rightly():
    wrong = sums.check(ISSUE, {YNN_FUSIONS: "LIBRARY_FUSION_TYPE_REDUCE"})
    assert wrong is not None and abs(wrong.got - wrong.expected) > 1000
    assert sums.check(ISSUE, ops.CPU_COMPILER_OPTIONS) is None


def test_the_samples_have_every_kind_with_every_size_and_all_that_is_known_to_be_wrong():
    every, sample, short = sums.every_case(), sums.sampled_cases(), sums.short_cases()
    assert set(sample) < set(every)
    assert {case.kind for case in set(short) - set(every)} <= set(RANKS)
    for part in ("rows", "inner", "dtype"):
        assert {(c.kind, getattr(c, part)) for c in sample} == {
            (c.kind, getattr(c, part)) for c in every
        }
    assert ISSUE in short and {case.kind for case in short} == set(sums.KINDS)


@pytest.fixture
def interpreter(tmp_path):
    """Makes a program that stands for an interpreter: it gets the cases, and `body` answers."""

    def make(body):
        path = tmp_path / "python"
        text = f"#!{sys.executable}\nimport json, os, sys\ncases = json.load(sys.stdin)['cases']\n"
        path.write_text(
            f"{text}def say(**m): print(json.dumps(m), flush=True)\n{body}\n", encoding="utf-8"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


CASES = [sums.Case(kind, 80, 5) for kind in ("sum of rows", "product", "sum of all")]


def test_a_program_that_ends_its_process_is_named_and_the_others_are_run(interpreter):
    python = interpreter(
        "for i, case in enumerate(cases):\n"
        "    say(begin=i)\n"
        "    if case[0] == 'product': os.kill(os.getpid(), 11)\n"
        "    if case[0] == 'sum of all': say(got=3.0, expected=4.0)\n"
        "say(done=True)"
    )
    begun = []
    found = list(isolated.run(CASES, {}, python, begun.append))
    assert begun == [0, 1, 2]
    assert found == [
        sums.Wrong(CASES[1], "the process ended with -11"),
        sums.Wrong(CASES[2], 3.0, 4.0),
    ]


def test_a_program_that_never_returns_is_named(interpreter):
    python = interpreter(
        "import faulthandler, time\n"
        "say(begin=0)\n"
        "if len(cases) == 3:\n"
        "    faulthandler.dump_traceback_later(0.05, exit=True)\n"
        "    time.sleep(60)\n"
        "say(done=True)"
    )
    assert list(isolated.run(CASES, {}, python)) == [sums.Wrong(CASES[0], "never returned")]


def test_an_interpreter_that_runs_nothing_is_an_error(interpreter):
    with pytest.raises(RuntimeError, match="No module named jax"):
        list(isolated.run(CASES, {}, interpreter("sys.exit('No module named jax')")))


def test_the_options_of_a_version_are_those_that_the_results_show_to_be_right():
    reports = json.loads((ROOT / "docs" / "results" / "sums.json").read_text())
    ours = {report["jaxlib"]: report for report in reports if report["options"] == "chosen"}
    assert set(record.TESTED) <= set(ours)
    for version, report in ours.items():
        assert report["compiler_options"] == cpu_compiler_options(version)
        assert report["cases"] >= len(sums.sampled_cases()) and report["wrong"] == []


def test_a_version_that_was_not_looked_at_gives_the_library_nothing():
    assert cpu_compiler_options("0.12.9")[YNN_FUSIONS] == ""


def test_the_tested_versions_are_those_of_the_lock():
    locked = re.findall(r"^jaxlib==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert sorted(locked) == sorted(record.TESTED)


@pytest.mark.parametrize("name", ["lenet", "mobilenet", "resnet18"])
def test_the_algorithms_of_a_network_are_those_of_all_its_convolutions(name):
    model = models.create(name)
    images = jax.ShapeDtypeStruct((8, 32, 32, 3), np.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    uses = used.algorithms(
        lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]),
        *(variables, images),
        backend="xla",
    )
    convolutions = [
        layer.kind.split()
        for layer in summary.layers(model, (32, 32, 3))
        if layer.kind not in ("norm", "dense")
    ]
    assert uses.total() == len(convolutions)
    depthwise = sum(count for use, count in uses.items() if "depthwise" in use.kind)
    assert depthwise == sum("depthwise" in kind for kind in convolutions)
    assert all(use.plan for use in uses)


@pytest.fixture
def winograd_everywhere():
    """Winograd's algorithm for few channels and images, too."""
    with (
        mock.patch.object(conditions, "WINOGRAD_CHANNELS", 1),
        mock.patch.object(conditions, "WINOGRAD_GRAD_CHANNELS", 1),
        mock.patch.object(conditions, "WINOGRAD_KERNEL_GRAD_CHANNELS", 1),
        mock.patch.object(conditions, "WINOGRAD_LEAST_SAVED", 0),
    ):
        jax.clear_caches()
        yield
    jax.clear_caches()


@pytest.fixture
def wrong_constant():
    """One entry of one matrix of Winograd's algorithm is off by a twentieth."""

    def plant(m, true=coefficients.f_m_3):
        scheme = true(m)
        at = scheme.at.copy()
        at[0, 1] *= 1.05
        return scheme._replace(at=at)

    with mock.patch.object(coefficients, "f_m_3", plant):
        yield


@pytest.fixture
def quick_compiler(monkeypatch):
    """LLVM does not optimize."""
    options = {**ops.CPU_COMPILER_OPTIONS, "xla_backend_optimization_level": 0}
    monkeypatch.setattr(compilation, "compiler_options", lambda: options)


TINY = ResNet(blocks=(1,), widths=(8,))


def _compared(dataset):
    settings = small_settings(dataset)
    mesh = sharding.data_mesh()
    ours, stock = (
        Programs(settings, model, constant_sgd(0.1), dataset, mesh)
        for model in (TINY, TINY.clone(ops="stock"))
    )
    return step.compare(ours, stock, dataset)


def test_a_step_agrees_with_the_stock_path_in_every_array(
    dataset, winograd_everywhere, quick_compiler
):
    found = _compared(dataset)
    assert not any(difference.is_wrong for difference in found)
    names = {difference.name for difference in found}
    assert len(names) == len(found) and {"loss", "evaluation loss"} < names
    for layer in ("stem_conv/kernel", "stage1_block1/conv1/kernel", "classifier/bias"):
        assert {f"gradient of {layer}", f"update of {layer}"} < names
    assert "running statistic of stage1_block1/norm1/mean" in names


@pytest.mark.slow
@pytest.mark.ci
def test_a_wrong_constant_in_one_algorithm_is_found(
    dataset, winograd_everywhere, wrong_constant, quick_compiler
):
    wrong = [difference for difference in _compared(dataset) if difference.is_wrong]
    names = {difference.name for difference in wrong}
    assert {"loss", "running statistic of stage1_block1/norm2/mean"} < names
    assert all(difference.got != difference.expected for difference in wrong)


@pytest.fixture
def wrong_backward_constant():
    """One entry of one matrix that only gradients use has the other sign."""

    def plant(m, true=coefficients.f_m_3_flipped):
        scheme = true(m)
        at = scheme.at.copy()
        at[0, 1] *= -1
        return scheme._replace(at=at)

    with mock.patch.object(coefficients, "f_m_3_flipped", plant):
        yield


@pytest.mark.slow
@pytest.mark.ci
def test_a_wrong_constant_that_only_gradients_use_is_found(
    dataset, winograd_everywhere, wrong_backward_constant, quick_compiler
):
    wrong = {difference.name for difference in _compared(dataset) if difference.is_wrong}
    assert wrong and not any("loss" in name or "statistic" in name for name in wrong)
    assert any("kernel" in name for name in wrong)


def test_a_difference_is_measured_against_the_array_and_zero_stands_for_zero():
    def difference(got, expected, floor=0.0):
        return step._difference("a", np.float32(got), np.float32(expected), 1e-2, floor)

    assert not difference([1.0, 100.0], [1.5, 100.0]).is_wrong
    assert not difference([0.0, 0.0], [0.0, 0.0]).is_wrong
    far = difference([1.0, 100.0], [1.0, 103.0])
    assert far.is_wrong and (far.got, far.expected) == (100.0, 103.0)
    assert difference([0.0, 1e-9], [0.0, 0.0]).is_wrong
    assert difference([np.nan, 1.0], [1.0, 1.0]).is_wrong
    assert not difference([1.1e-7], [1.0e-7], floor=[1.0]).is_wrong  # the last bit of 1


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Outcomes are kept in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


ERROR = "sum of rows: 3.0 instead of 4.0"


def test_what_was_found_wrong_refuses_a_start_until_it_is_right(home, caplog):
    record.check_start()
    record.remember({"sums": None, "lenet": ERROR})
    with pytest.raises(UserError, match="3.0 instead of 4.0.*doctor again"):
        record.check_start()
    record.remember({"lenet": None})
    record.check_start()
    assert not caplog.records


@pytest.mark.parametrize("what", ["machine", "jaxlib", "source"])
def test_another_machine_version_or_program_is_another_matter(what, home, monkeypatch):
    record.remember({"sums": ERROR})
    other = {**record.subject(), what: "another"}
    monkeypatch.setattr(record, "subject", lambda: other)
    record.check_start()


def test_a_version_that_nobody_has_tested_is_said_unless_it_was_looked_at(
    home, monkeypatch, caplog
):
    monkeypatch.setattr(record, "TESTED", ("0.0.1",))
    record.check_start()
    (line,) = caplog.messages
    assert f"jaxlib {jaxlib.__version__} is none of those" in line and "jaxcnn doctor" in line
    record.remember({"sums": None})
    record.check_start()
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a": {"findings": {"b": 1}}}', "\xff"])
def test_a_damaged_file_of_outcomes_is_said_and_written_anew(text, home, caplog):
    record.file().parent.mkdir(parents=True)
    record.file().write_text(text, encoding="latin-1")
    record.check_start()
    assert "is damaged" in caplog.text
    record.remember({"sums": ERROR})
    with pytest.raises(UserError, match=ERROR):
        record.check_start()


def test_outcomes_that_cannot_be_kept_are_an_error_in_one_line(home, monkeypatch):
    (home / "cache").write_text("a file")
    with pytest.raises(UserError, match="cannot be kept in .*XDG_CACHE_HOME"):
        record.remember({"sums": None})
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("HOME")
    with mock.patch.object(os.path, "expanduser", lambda path: str(path)):
        with pytest.raises(UserError, match="there is no home"):
            record.remember({"sums": None})


@pytest.fixture
def tiny_network(monkeypatch, quick_compiler):
    """`resnet18` is a network of one small block, and the sums are two."""
    variant = (ResNet, {"blocks": (1,), "widths": (8,)})
    monkeypatch.setitem(resnet.VARIANTS, "resnet18", variant)
    monkeypatch.setattr(sums, "short_cases", lambda: CASES[:2])


@pytest.mark.slow
@pytest.mark.ci
@loads_a_file
def test_doctor_looks_at_everything_and_is_content(home, tiny_network, command):
    code, output, errors = command("doctor", "resnet:digits")
    assert (code, errors) == (0, [])
    for text in (
        *(f"jaxlib {jaxlib.__version__}", "devices: ", "memory", "disk", "compiled programs"),
        *(
            "data: digits",
            "sums and products: 2 small programs",
            "2 right",
            "1 x 3x3: ",
            "2 x 3x3: ",
        ),
        *("a batch of digits", "compiling as for a run", "arrays are right", "all is well"),
        # Though digits are few.
        f"oneDNN: {'called' if compilation.has_onednn() else 'not called'}",
    ):
        assert text in output
    assert record.file().is_file()
    record.check_start()


@loads_a_file
def test_doctor_finds_a_wrong_constant_and_no_training_starts(
    home, tiny_network, winograd_everywhere, wrong_constant, command, monkeypatch
):
    monkeypatch.chdir(home)
    code, output, errors = command("doctor", "resnet:digits")
    assert code == 1 and "wrong: resnet18, " in output and "all is well" not in output
    (line,) = errors
    numbers = re.search(r"resnet18, (\S.*): (\S+) where the primitives of XLA give (\S+) ", line)
    assert numbers and numbers[2] != numbers[3]
    code, _, errors = command("train", "--config", "resnet:digits", "--train.epochs=1")
    assert code == 1 and numbers[0].strip() in errors[-1]
    assert not (home / "runs").exists()


def test_wrong_sums_are_told_with_both_numbers(home, monkeypatch, command):
    found = [sums.Wrong(CASES[0], 3.0, 4.0), sums.Wrong(CASES[1], "the process ended with -11")]
    monkeypatch.setattr(isolated, "run", lambda *args: iter(found))
    monkeypatch.setattr(verb, "_step", lambda *args: None)
    code, output, (line,) = command("doctor", "lenet:digits")
    assert code == 1 and "sum of rows, float32 [80, 5]: 3.0 instead of 4.0" in line
    assert "product, float32 [80, 5]: the process ended with -11" in output


def test_programs_that_cannot_be_run_are_an_error_in_one_line(
    home, monkeypatch, command, interpreter
):
    python = interpreter("sys.exit('no such library')")
    whole = isolated.run
    monkeypatch.setattr(isolated, "run", lambda cases, options: whole(cases, options, python))
    code, _, errors = command("doctor", "lenet:digits")
    assert code == 1 and "cannot be run" in errors[-1] and "no such library" in errors[-1]


def test_data_whose_shape_is_unknown_is_refused_in_one_line(home, command):
    code, _, errors = command("doctor", "lenet:stl10")
    assert code == 1 and "stl10" in errors[-1] and "another data set" in errors[-1]
