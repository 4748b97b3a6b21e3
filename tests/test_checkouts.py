"""scripts/bench/checkouts.py: worktrees of versions are gone afterwards, however it ends."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from jaxcnn.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkouts(tmp_path, monkeypatch):
    """The module, of a project that has two versions."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    import checkouts

    monkeypatch.setattr(checkouts, "ROOT", tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    checkouts.git("init", "--quiet")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    for text in ("one", "two"):
        (tmp_path / "file").write_text(text)
        checkouts.git("add", "file")
        checkouts.git(*author, "commit", "--quiet", "--message", text)
    return checkouts


def _worktrees(folder):
    done = subprocess.run(
        ["git", "-C", str(folder), "worktree", "list"], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_every_version_has_a_folder_of_its_own_for_a_while(checkouts, tmp_path):
    with checkouts.checked_out(["HEAD~1", "HEAD", "HEAD"]) as trees:
        assert [(tree / "file").read_text() for tree in trees] == ["one", "two", "two"]
    assert len(_worktrees(tmp_path)) == 1 and not any(tree.exists() for tree in trees)
    with pytest.raises(UserError, match="git worktree add .* nothing fails"):
        with checkouts.checked_out(["HEAD", "nothing"]):
            pass
    assert len(_worktrees(tmp_path)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_worktree_behind(checkouts, tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit if number != signal.SIGINT else KeyboardInterrupt) as ending:
        with checkouts.checked_out(["HEAD", "HEAD~1"]) as trees:
            assert len(_worktrees(tmp_path)) == 3
            os.kill(os.getpid(), number)
    if number != signal.SIGINT:
        assert ending.value.code == 128 + number
    assert len(_worktrees(tmp_path)) == 1 and not any(tree.exists() for tree in trees)
    assert signal.getsignal(number) is before


def test_a_signal_while_git_works_waits_for_it(checkouts, tmp_path, monkeypatch):
    working, calls = checkouts.git, []

    def git(*arguments):
        calls.append(arguments[1])
        os.kill(os.getpid(), signal.SIGTERM)
        working(*arguments)

    monkeypatch.setattr(checkouts, "git", git)
    with pytest.raises(SystemExit, match="143"):
        with checkouts.checked_out(["HEAD", "HEAD~1"]):
            pass
    assert calls == ["add", "remove"] and len(_worktrees(tmp_path)) == 1
