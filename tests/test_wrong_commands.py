"""The generator of wrong commands: what it tries, what it notices, some of its trials."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn import cli
from jaxcnn.config import schema

ROOT = Path(__file__).parents[1]
CHECKS = ROOT / "scripts" / "checks"
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{CHECKS}", "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def wrong_trials():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CHECKS))
        import wrong_trials
    return wrong_trials


def test_every_verb_flag_and_key_is_found(wrong_trials):
    found = {verb: wrong_trials.surface(verb) for verb in cli.VERBS}
    keys = {f"--{key}" for key, _ in schema.walk()}
    assert keys <= set(found["train"].options)
    assert {"--config", "--workdir", "--coordinator", "--config.seed"} <= set(
        found["train"].options
    )
    assert {"--dry_run", "--train.plots", "--notrain.plots"} <= {
        *found["train"].switches, *found["train"].options
    }  # fmt: skip
    assert {"--json"} <= set(found["predict"].switches)
    assert found["predict"].positionals == ["run", "images"]
    assert "--archive" in found["prepare"].options


def test_the_same_seed_gives_the_same_trials_of_all_kinds(wrong_trials):
    drawn = wrong_trials.draw(3, 200)
    assert drawn == wrong_trials.draw(3, 200) and drawn[:50] != wrong_trials.draw(4, 50)
    assert len({repr(trial) for trial in drawn}) == 200
    assert {trial.verb for trial in drawn} == set(cli.VERBS)
    more = drawn + wrong_trials.draw(5, 400)  # few trials damage a file, in one of seven ways
    assert {d.kind for trial in more for d in trial.damages} >= {"cut", "flip", "replace"}
    for trial in drawn:  # nothing outside of the trial's folder
        assert not any(b".." in argument or b"\0" in argument for argument in trial.arguments)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cut", b'{"a": [1,'),
        ("flip", b'{"a": [1,"2]}\n'),
        ("insert", b'{"a": [1,7 2]}\n'),
        ("overwrite", b'{"a": [1,72]}\n'),
        ("replace", b'{"a": [7, 2]}\n'),
    ],
)
def test_a_file_is_damaged_where_the_trial_says(kind, expected, wrong_trials, tmp_path):
    (tmp_path / "own.py").write_bytes(b'{"a": [1, 2]}\n')
    place = 9 + (14 if kind == "flip" else 0) * 7 if kind != "replace" else 1
    if kind == "flip":  # bit 1 of byte 9
        place = next(n for n in range(9, 10_000, 14) if n % 8 == 1)
    wrong_trials.apply(wrong_trials.Damage("own.py", kind, place, b"7"), tmp_path)
    assert (tmp_path / "own.py").read_bytes() == expected


def test_one_of_all_files_of_a_folder_is_damaged(wrong_trials, tmp_path):
    for name in ("a", "b/c", "b/d"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"x")
    for place in range(3):
        wrong_trials.apply(wrong_trials.Damage("data/*", "delete", place, b""), tmp_path)
    wrong_trials.apply(wrong_trials.Damage("data/*", "delete", 0, b""), tmp_path)  # none is left
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


# A program with faults in place of ours, and what is noticed.
FAULTY = """
import json, os, sys, time
from pathlib import Path
import wrong_commands, wrong_trials
from jaxcnn import cli

def main(arguments):
    kind = arguments[1]
    if kind == "raise":
        raise ZeroDivisionError
    if kind == "abort":
        os.abort()
    if kind == "hang":
        time.sleep(100)
    if kind == "train":
        print("training from step 0", flush=True)
        try:
            time.sleep(100)
        except KeyboardInterrupt:
            sys.exit(130)
    if kind == "good":
        sys.exit("error: a line")
    sys.exit(int(kind))

cli.main = main
wrong_commands.SILENT_SECONDS, wrong_commands.TRAINING_SECONDS = 0.5, 0.2
base = Path(sys.argv[1])
(base / "template").mkdir()
for kind in sys.argv[2:]:
    (base / kind).mkdir()
    trial = wrong_trials.Trial("evaluate", [kind.encode()], [], "utf-8")
    outcome = wrong_commands.run(trial, base / "template", base / kind)
    print(json.dumps([kind, outcome.code, outcome.faults]), flush=True)
"""


def test_bad_ends_are_noticed_and_good_ones_let_pass(tmp_path):
    kinds = ["raise", "abort", "hang", "3", "1", "0", "good", "train"]
    done = subprocess.run(
        [sys.executable, "-c", FAULTY, str(tmp_path), *kinds],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=100,
    )  # fmt: skip
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["raise", 1, ["a traceback", "no line with the error"]],
        ["abort", -6, ["exit code -6"]],
        ["hang", -9, ["silent for 0 s", "exit code -9"]],
        ["3", 3, ["exit code 3"]],
        ["1", 1, ["no line with the error"]],
        ["0", 0, []],
        ["good", 1, []],
        ["train", 130, []],
    ], done.stderr


def test_a_few_dozen_wrong_commands_end_well(tmp_path):
    """Those that a training or a prepared data set is not needed for."""
    out = tmp_path / "out.json"
    command = [sys.executable, str(CHECKS / "wrong_commands.py"), "--cheap", "--count", "200"]
    verbs = ["launch", "layers", "plot", "prepare"]
    done = subprocess.run(
        [*command, "--verbs", *verbs, "--out", str(out)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["trials"] == sum(result["exit_codes"].values()) > 24
    assert result["faults"] == [] and set(result["verbs"]) <= set(verbs)
    assert (result["seed"], result["count"]) == (20, 200)
