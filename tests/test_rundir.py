"""The run folder: ownership, atomic files, metrics that survive a crash."""

import json

import pytest

from jaxcnn.config.compat import differences, fingerprint
from jaxcnn.errors import UserError
from jaxcnn.run.folder import RunDir, write_atomically

CONFIG = {"seed": 0, "optim": {"peak_lr": 0.1}, "train": {"epochs": 3, "log_every_steps": 10}}


def _record(step):
    """Returns the record of an epoch of ten steps."""
    keys = ("learning_rate", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy")
    numbers = dict.fromkeys((*keys, "seconds", "images_per_second"), 0.5)
    return {"epoch": step // 10, "step": step, **numbers}


def _claim(run, settings):
    with run.locked(settings):
        pass


def _with(section, **values):
    return {**CONFIG, section: {**CONFIG[section], **values}}


def test_a_new_folder_is_made_and_taken_again_by_the_same_configuration(tmp_path):
    run = RunDir(tmp_path / "a b" / "läuft")
    _claim(run, CONFIG)
    assert run.read_json("config.json") == CONFIG
    _claim(run, CONFIG)


def test_another_configuration_is_refused_with_the_differing_keys_and_what_may_differ(tmp_path):
    run = RunDir(tmp_path / "run")
    _claim(run, CONFIG)
    other = {**_with("optim", peak_lr=0.2), "seed": 1}
    expected = (
        "seed was 0, is 1, optim.peak_lr was 0.1, is 0.2.*may change: .*train.log_every_steps"
    )
    for refuse in (run.check, lambda settings: _claim(run, settings)):
        with pytest.raises(UserError, match=expected):
            refuse(other)
    assert run.read_json("config.json") == CONFIG


def test_what_has_no_part_in_the_numbers_may_change_and_epochs_may_rise(tmp_path):
    run = RunDir(tmp_path / "run")
    _claim(run, CONFIG)
    for changed in (_with("train", log_every_steps=1), _with("train", epochs=5)):
        assert fingerprint(changed) == fingerprint(CONFIG)
        _claim(run, changed)
        assert run.read_json("config.json") == changed
    with pytest.raises(UserError, match="train.epochs was 5, is 4 and may only rise"):
        run.check(_with("train", epochs=4))
    assert fingerprint(_with("optim", peak_lr=0.2)) != fingerprint(CONFIG)


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(UserError, match="not a run folder"):
            RunDir(path).check(CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_kill_left_before_the_first_file_was_whole_is_cleaned_up(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on nowhere")
    (tmp_path / ".config.json.abc.tmp").write_text("{")
    _claim(RunDir(tmp_path), CONFIG)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.json"}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the run folder"):
        _claim(RunDir(tmp_path / "file" / "run"), CONFIG)


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is damaged \(it is not valid JSON"):
        RunDir(tmp_path).check(CONFIG)


def test_differences_name_nested_added_and_missing_keys():
    old, new = {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}}
    assert differences(old, new) == [("a.c", 2, None), ("a.d", None, 3)]


def test_metrics_ignore_a_line_that_was_cut_short_and_drop_what_comes_after_a_step(tmp_path):
    run = RunDir(tmp_path)
    for step in (10, 20, 30):
        run.append_metrics(_record(step))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4')
    assert [record["step"] for record in run.read_metrics()] == [10, 20, 30]
    assert run.truncate_metrics(20) == [_record(10), _record(20)]
    text = json.dumps(_record(10)) + "\n" + json.dumps(_record(20)) + "\n"
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_metrics_that_need_no_cut_are_not_written_anew(tmp_path):
    run = RunDir(tmp_path)
    run.append_metrics(_record(10))
    before = (tmp_path / "metrics.jsonl").stat()
    assert run.truncate_metrics(10) == [_record(10)]
    after = (tmp_path / "metrics.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_line_of_metrics_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(_record(10)) + '\n{"st\n')
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged \(line 2 is not JSON"):
        RunDir(tmp_path).read_metrics()


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    for write in (
        lambda run: run.append_metrics(_record(10)),
        lambda run: run.write_json("summary.json", {}),
    ):
        with pytest.raises(UserError, match=r"cannot write .*\(full\): .*same command continues"):
            write(RunDir(tmp_path))


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
