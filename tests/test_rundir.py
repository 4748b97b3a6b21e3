"""The run folder: ownership, atomic files, metrics that survive a crash."""

import json

import pytest

from jaxcnn.errors import UserError
from jaxcnn.rundir import RunDir, differences, write_atomically

CONFIG = {"seed": 0, "optim": {"peak_lr": 0.1}, "train": {"epochs": 3, "log_steps": 10}}


def test_a_new_folder_is_made_and_taken_again_by_the_same_configuration(tmp_path):
    run = RunDir(tmp_path / "a b" / "läuft")
    run.claim(CONFIG)
    assert run.read_json("config.json") == CONFIG
    run.claim(CONFIG)


def test_another_configuration_is_refused_with_the_differing_keys(tmp_path):
    run = RunDir(tmp_path / "run")
    run.claim(CONFIG)
    other = {**CONFIG, "seed": 1, "optim": {"peak_lr": 0.2}}
    with pytest.raises(UserError, match="seed was 0, is 1, optim.peak_lr was 0.1, is 0.2"):
        run.claim(other)
    assert run.read_json("config.json") == CONFIG


def test_what_has_no_part_in_the_numbers_may_change(tmp_path):
    run = RunDir(tmp_path / "run")
    run.claim(CONFIG)
    run.claim({**CONFIG, "train": {"epochs": 3, "log_steps": 1}})


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(UserError, match="not a run folder"):
        RunDir(tmp_path).claim(CONFIG)
    with pytest.raises(UserError, match="not a run folder"):
        RunDir(tmp_path / "thesis.txt").claim(CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the run folder"):
        RunDir(tmp_path / "file" / "run").claim(CONFIG)


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is not valid JSON"):
        RunDir(tmp_path).claim(CONFIG)


def test_differences_name_nested_added_and_missing_keys():
    old, new = {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}}
    assert differences(old, new) == [("a.c", 2, None), ("a.d", None, 3)]


def test_metrics_ignore_a_line_that_was_cut_short_and_drop_what_comes_after_a_step(tmp_path):
    run = RunDir(tmp_path)
    for step in (10, 20, 30):
        run.append_metrics({"step": step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4')
    assert [record["step"] for record in run.read_metrics()] == [10, 20, 30]
    assert run.cut_metrics(20) == [{"step": 10}, {"step": 20}]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 10}\n{"step": 20}\n'


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunDir(tmp_path).append_metrics({"train_loss": float("nan")})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_each_start_is_kept(tmp_path):
    run = RunDir(tmp_path)
    run.add_start({"python": "3.11"})
    run.add_start({"python": "3.13"})
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert [start["python"] for start in starts] == ["3.11", "3.13"]


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
    assert path.read_text() == "old"
