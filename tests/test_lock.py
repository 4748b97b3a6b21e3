"""The lock of a folder: one holder, named to others, gone with its process."""

import signal
import subprocess
import sys

import pytest

from jaxcnn.errors import UserError
from jaxcnn.run import lock

HOLD = """
import pathlib, sys, time
from jaxcnn.run import lock
with lock.exclusive(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_with_the_holder_s_number_until_that_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "):
            with lock.exclusive(tmp_path):
                raise AssertionError("the lock was given twice")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with lock.exclusive(tmp_path):  # nothing stale is left to be cleaned up
            pass


def test_the_lock_is_released_at_the_end_and_names_no_one_then(tmp_path):
    for _ in range(2):
        with lock.exclusive(tmp_path):
            assert (tmp_path / lock.NAME).read_text().startswith("process ")
        assert (tmp_path / lock.NAME).read_text() == ""
