"""The surroundings of a run: XLA's flags in time, a compilation cache that can be written."""

import os
import subprocess
import sys
import uuid

import jax
import pytest
from conftest import release_compile_memory

from jaxcnn.errors import UserError
from jaxcnn.runtime import compilation, environment

FLAG = "--xla_gpu_deterministic_ops=true"


def test_deterministic_operations_are_added_once_to_the_user_s_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    for _ in range(2):
        environment.use_deterministic_operations()
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_enable_fast_math=false {FLAG}"


def test_xla_knows_the_flag():
    """XLA ends a process that has a flag it does not know."""
    program = (
        "from jaxcnn.runtime import environment\n"
        "environment.use_deterministic_operations()\n"
        "import jax\n"
        "print(jax.device_count())\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    unknown = {**os.environ, "XLA_FLAGS": FLAG.replace("ops", "opps")}
    assert subprocess.run(command, capture_output=True, env=unknown).returncode != 0


def test_a_gpu_without_the_flag_is_refused_and_a_cpu_needs_none(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    environment.check_deterministic()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match=f"needs XLA_FLAGS={FLAG} before JAX starts"):
        environment.check_deterministic()
    environment.use_deterministic_operations()
    environment.check_deterministic()


def test_a_program_that_does_not_call_onednn_is_kept_in_the_cache(cache_folder):
    def program(x):
        return x + 1

    program.__name__ = f"kept_{uuid.uuid4().hex}"
    compilation.compiled(jax.jit(program), (jax.numpy.ones(3),))
    assert [path for path in cache_folder.iterdir() if program.__name__ in path.name]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("sse avx2 avx512f", "Fast 9, AVX-512"), ("sse avx2", "Fast 9, AVX2"), ("sse", "Fast 9")],
)
def test_the_processor_is_named_with_its_widest_vectors(monkeypatch, flags, expected):
    text = f"processor\t: 0\nmodel name\t: Fast 9\nflags\t\t: {flags}\n"
    monkeypatch.setattr(environment.Path, "read_text", lambda self, **_: text)
    assert environment.cpu_name() == expected


@pytest.mark.slow
@pytest.mark.ci
def test_freed_memory_is_kept_for_the_next_call():
    """Counts the pages that the system has to fill anew: of 64 MB at each call, or of none.

    Now and then something small and lasting takes the beginning of the freed 64 MB, and one call
    needs another 64 MB, which are kept in turn: so the median of several calls is what counts.
    """
    program = (
        "import resource, statistics, sys\n"
        "from jaxcnn.runtime import memory\n"
        "if sys.argv[1] == 'kept':\n"
        "    memory.configure_malloc()\n"
        "import jax, jax.numpy as jnp\n"
        "total = jax.jit(lambda x: (jnp.outer(x, x) @ x).sum())\n"
        "x = jnp.ones(4096)\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "counts = []\n"
        "for _ in range(12):\n"
        "    before = faults()\n"
        "    total(x).block_until_ready()\n"
        "    counts.append(faults() - before)\n"
        "print(round(statistics.median(counts[1:])))\n"
    )
    given_back, kept = (
        int(subprocess.check_output([sys.executable, "-c", program, mode], text=True))
        for mode in ("default", "kept")
    )
    assert kept < 20 < given_back


def test_what_compiling_leaves_is_given_back_and_compiled_programs_stay():
    traced = []

    @jax.jit
    def double(x):
        traced.append(x)
        return 2 * x

    program = double.lower(1.0).compile()
    assert double(3.0) == 6 and len(traced) == 1
    release_compile_memory()
    assert program(4.0) == 8 and len(traced) == 1
    assert double(5.0) == 10 and len(traced) == 2
