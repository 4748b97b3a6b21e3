"""How are programs run that may end their process, or never return? In processes of their own.

Such a process says what it begins; `run` starts another one behind the program that ended it. This
file runs with every version of JAX that is looked at: it imports the programs alone.
"""

import faulthandler
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcnn.doctor.sums import Case, Wrong, check

SECONDS = 60  # after which a program is taken for one that never returns


def run(
    cases: Sequence[Case],
    options: Mapping[str, Any],
    python: str = sys.executable,
    on_case: Callable[[int], None] = lambda index: None,
) -> Iterator[Wrong]:
    """Yields the programs that are wrong, each set in processes of its own.

    Args:
        cases: What to run.
        options: XLA's options to compile with.
        python: The interpreter, whose JAX is looked at.
        on_case: Gets the number of each case that begins.

    Raises:
        RuntimeError: If the interpreter cannot run any program.
    """
    paths = [str(Path(__file__).parents[2])]
    if python == sys.executable and os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])  # where its JAX may lie
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_PLATFORMS": "cpu",  # accelerators round the operands of a product
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # A program that is read from the cache was compiled by another start, perhaps elsewhere.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    start = 0
    while start < len(cases):
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
            subprocess.Popen(
                [python, "-m", "jaxcnn.doctor.isolated"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env=environment,
            ) as child,
        ):
            assert child.stdin is not None and child.stdout is not None
            json.dump({"cases": cases[start:], "options": dict(options)}, child.stdin)
            child.stdin.close()
            begun, finished = -1, False
            for line in child.stdout:
                message = json.loads(line)
                begun = message.get("begin", begun)
                finished = message.get("done", False)
                if "begin" in message:
                    on_case(start + begun)
                if "got" in message:
                    yield Wrong(cases[start + begun], message["got"], message["expected"])
            code = child.wait()
            log.seek(0)
            told = log.read()
        if finished:
            return
        if begun < 0:
            raise RuntimeError(" ".join(told.split())[-300:])
        ending = "never returned" if "Timeout" in told else f"the process ended with {code}"
        yield Wrong(cases[start + begun], ending)
        start += begun + 1


def main() -> None:
    """Runs the cases that standard input names; writes a line of JSON for each that begins."""
    given = json.load(sys.stdin)

    def say(**message: Any) -> None:
        print(json.dumps(message), flush=True)

    options = {**given["options"]}
    for index, fields in enumerate(given["cases"]):
        say(begin=index)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            wrong = check(Case(*fields), options)
        except Exception as error:  # what the compiler refuses is a finding, not the end
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            wrong = Wrong(Case(*fields), text)
        if wrong:
            say(got=wrong.got, expected=wrong.expected)
    faulthandler.cancel_dump_traceback_later()
    say(done=True)


if __name__ == "__main__":
    main()
