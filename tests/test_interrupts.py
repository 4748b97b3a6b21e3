"""Signals: the first is noted, the second ends the process even while Python is not running."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxcnn.runtime.signals import Interrupts

# Three seconds in C without a single Python instruction, as in a compilation.
BUSY = """
import hashlib
from jaxcnn.runtime.signals import Interrupts
with Interrupts() as interrupts:
    print("in", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 12_000_000)
print(interrupts.received, flush=True)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_a_process_that_is_busy_in_c(signum):
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "in\n"
        process.send_signal(signum)
        assert process.stderr.readline() == "\n"
        assert process.stderr.readline() == "saving; once more to stop without\n"
        began = time.monotonic()
        process.send_signal(signum)
        assert process.wait(timeout=60) == 128 + signum
        assert time.monotonic() - began < 1
        assert process.stdout.read() == ""


def test_one_signal_is_noted_and_both_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for _ in range(2):
        with Interrupts() as interrupts:
            assert interrupts.received is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupts.received == signal.SIGTERM
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
