"""Plants faults one by one in a copy of the checkout: each must fail a test of the fast suite.

python scripts/checks/planted_faults.py [--only NAME ...] [--out docs/results/planted-faults.json]

The tests of a fault are first run without it and must pass, so that it is the fault that fails
them. Ends with exit code 1 if a fault is not found, and with an error if its text no longer stands
in the code exactly once.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from jaxcnn import cli
from jaxcnn.commands import outfiles

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "*.egg-info")


class Fault(NamedTuple):
    """One change of one file.

    Attributes:
        file: Path in the checkout.
        old: Text that stands in the file exactly once.
        new: Text that replaces it.
        tests: Arguments of pytest: files, or tests of a file by their names.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


RESUME = ("tests/test_loop.py::test_a_run_stopped_by_a_signal_continues_to_the_same_bytes",)
RESTORED = "return serialization.from_state_dict(template, restored)"
STEPS = ("tests/test_steps.py",)

FAULTS = {
    "sign of Winograd's kernel gradient": Fault(
        "jaxcnn/ops/winograd/stride1.py",
        "    return transforms.transform_kernel_grad(total, scheme)",
        "    return -transforms.transform_kernel_grad(total, scheme)",
        ("tests/test_ops_winograd.py",),
    ),
    "dense block's deferred gradients forgotten": Fault(
        "jaxcnn/ops/dense_block/passes.py",
        "return (into, dz, deferred.add(left)), (spatial, pointwise)",
        "return (into, dz, deferred), (spatial, pointwise)",
        ("tests/test_ops_dense_block.py",),
    ),
    "mask of the evaluation ignored": Fault(
        "jaxcnn/train/step.py",
        "    return metrics.sums(losses, logits, labels, mask)",
        "    return metrics.sums(losses, logits, labels, jnp.ones_like(mask))",
        STEPS,
    ),
    "a step counted twice": Fault(
        "jaxcnn/train/step.py",
        "            step=state.step + 1,",
        "            step=state.step + 2,",
        STEPS,
    ),
    "learning rate of the next step": Fault(
        "jaxcnn/train/step.py",
        "rate = optimizer.learning_rate(state.step)",
        "rate = optimizer.learning_rate(state.step + 1)",
        STEPS,
    ),
    "augmentation the same in every step": Fault(
        "jaxcnn/train/step.py",
        "jax.random.split(jax.random.fold_in(key, state.step))",
        "jax.random.split(key)",
        STEPS,
    ),
    "averaged weights not evaluated": Fault(
        "jaxcnn/train/step.py",
        'return state.ema or {"params": state.params',
        'return {"params": state.params',
        STEPS,
    ),
    "weight decay on the scales of norms": Fault(
        "jaxcnn/models/groups.py",
        'if last != "kernel":',
        'if last not in ("kernel", "scale"):',
        ("tests/test_optim.py",),
    ),
    "warm-up that begins at zero": Fault(
        "jaxcnn/train/schedules.py",
        "course.peak_lr * (step + 1) / max(count, 1)",
        "course.peak_lr * step / max(count, 1)",
        ("tests/test_optim.py",),
    ),
    "smoothing spread over K - 1 classes": Fault(
        "jaxcnn/train/metrics.py",
        "logits.shape[-1]), label_smoothing)",
        "logits.shape[-1]), label_smoothing * logits.shape[-1] / (logits.shape[-1] - 1))",
        ("tests/test_metrics.py",),
    ),
    "momentum of the running statistics reversed": Fault(
        "jaxcnn/models/layers.py",
        "momentum * running[name] + (1 - momentum) * now[name]",
        "(1 - momentum) * running[name] + momentum * now[name]",
        ("tests/test_models.py", "tests/test_ops_norms.py"),
    ),
    "flip that mirrors up and down": Fault(
        "jaxcnn/data/augment.py",
        "images[..., ::-1, :]",
        "images[..., ::-1, :, :]",
        ("tests/test_augment.py",),
    ),
    "last evaluation batch dropped": Fault(
        "jaxcnn/data/batches.py",
        "for start in range(0, examples, batch_size):",
        "for start in range(0, examples - batch_size + 1, batch_size):",
        ("tests/test_batches.py",),
    ),
    "resumed without the optimizer's state": Fault(
        "jaxcnn/run/checkpoint.py",
        RESTORED,
        'restored["opt_state"] = jax.tree.map(jnp.zeros_like, restored["opt_state"])\n'
        f"        {RESTORED}",
        RESUME,
    ),
    "resumed without the sums of the epoch": Fault(
        "jaxcnn/run/checkpoint.py",
        RESTORED,
        f'restored["sums"] = jax.tree.map(jnp.zeros_like, restored["sums"])\n        {RESTORED}',
        RESUME,
    ),
    "damaged checkpoint accepted": Fault(
        "jaxcnn/run/checkpoint.py",
        "        manifest.verify(self._folder / str(step), self._fingerprint)",
        "        return",
        ("tests/test_checkpoint.py",),
    ),
}


def planted(text: str, fault: Fault) -> str:
    """Returns the text of the fault's file with the fault in it.

    Raises:
        SystemExit: If the old text does not stand in it exactly once.
    """
    if (count := text.count(fault.old)) != 1:
        sys.exit(f"error: {fault.file} has {count} times, not once: {fault.old.strip()}")
    return text.replace(fault.old, fault.new)


def run_tests(checkout: Path, tests: tuple[str, ...], cache: Path) -> tuple[int, str]:
    """Runs tests of the fast suite in `checkout` until one fails; returns exit code and output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *tests],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "JAXCNN_TEST_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def first_failure(code: int, output: str) -> str | None:
    """Returns the test that failed, None if all passed.

    Raises:
        SystemExit: If pytest ended for another reason, such as a test that does not exist.
    """
    if code == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (tests/\S+)", output, re.MULTILINE)
    if code != 1 or found is None:
        sys.exit(f"error: pytest ended with code {code}:\n{output[-2000:]}")
    return found[1]


def check(names: list[str], folder: Path) -> dict[str, str | None]:
    """Returns the first failing test of each fault, None where all pass."""
    checkout, cache = folder / "checkout", folder / "xla"
    shutil.copytree(ROOT, checkout, ignore=LEFT_OUT)
    results: dict[str, str | None] = {}
    passed: set[tuple[str, ...]] = set()
    for name in names:
        fault = FAULTS[name]
        if fault.tests not in passed:
            if failing := first_failure(*run_tests(checkout, fault.tests, cache)):
                sys.exit(f"error: {failing} fails without any fault")
            passed.add(fault.tests)
        file = checkout / fault.file
        whole = file.read_text(encoding="utf-8")
        file.write_text(planted(whole, fault), encoding="utf-8")
        try:
            results[name] = first_failure(*run_tests(checkout, fault.tests, cache))
        finally:
            file.write_text(whole, encoding="utf-8")
        print(f"{name}: {results[name] or 'NOT FOUND'}", flush=True)
    return results


def main() -> None:
    """Runs the chosen faults and writes the first failing test of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="NAME", default=list(FAULTS))
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    if options.out:
        outfiles.check_file("--out", options.out, (".json", ""))
    with tempfile.TemporaryDirectory() as folder:
        results = check(options.only, Path(folder))
    if options.out:
        rows = [{"fault": name, "first_failing_test": test} for name, test in results.items()]
        outfiles.write("--out", options.out, json.dumps(rows, indent=1) + "\n")
    if missed := [name for name, test in results.items() if test is None]:
        sys.exit(f"error: no test finds: {'; '.join(missed)}")


if __name__ == "__main__":
    cli.script(main)
