"""Versions of this project, each checked out into a folder of its own while it is measured."""

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxcnn.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def git(*arguments: str) -> str:
    """Runs git in this project and returns what it prints."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {' '.join(arguments)} fails: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


@contextlib.contextmanager
def checked_out(versions: Sequence[str]) -> Iterator[list[Path]]:
    """Checks out each version and removes all again, also where SIGTERM or SIGHUP ends the process.

    The signals end it by SystemExit meanwhile: what they do by themselves would leave the worktrees
    in the project's repository. git is not interrupted, so that no worktree is half there.
    """
    late: list[int] = []
    with tempfile.TemporaryDirectory() as folder, _on_signals(_end):
        trees = [Path(folder) / str(index) for index in range(len(versions))]
        try:
            for tree, version in zip(trees, versions, strict=True):
                with _on_signals(lambda signum, _: late.append(signum)):
                    git("worktree", "add", "--detach", "--force", str(tree), version)
                if late:
                    _end(late[0], None)
            yield trees
        finally:
            with _on_signals(lambda signum, _: None):
                for tree in filter(Path.exists, trees):
                    git("worktree", "remove", "--force", str(tree))


def _end(signum: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + signum)


@contextlib.contextmanager
def _on_signals(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Has SIGTERM and SIGHUP call `handler` while entered."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
