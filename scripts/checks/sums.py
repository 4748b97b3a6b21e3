r"""Which of XLA's CPU options sum and multiply correctly, by version of jaxlib.

    python scripts/checks/sums.py                        # this interpreter's jaxlib, no file
    python scripts/checks/sums.py --python A/bin/python --python B/bin/python \
        --out docs/results/sums.json
    python scripts/checks/sums.py --table docs/results/sums.json

Runs the programs of jaxcnn/doctor/sums.py: sums, products, windows and the loss, of about 2^12 to
2^18 rows of 1 to 16 numbers, in float32 and bfloat16, each compiled alone, against exact results.
With the options of jaxcnn it runs a fifth of all (every kind, number of rows and dtype, with one or
two of nine inner sizes, each in its turn), or all with --whole, which takes an hour. With the other
options it runs a tenth of that fifth: they show what is wrong with them, not that nothing is.
Programs known to be wrong somewhere are always among them. A version that is in the file already is
measured anew.
"""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jaxcnn import cli  # noqa: E402
from jaxcnn.commands import outfiles  # noqa: E402
from jaxcnn.commands.parser import script_parser  # noqa: E402
from jaxcnn.doctor import isolated, sums  # noqa: E402
from jaxcnn.errors import UserError  # noqa: E402
from jaxcnn.ops.lowering import YNN_FUSIONS, cpu_compiler_options  # noqa: E402
from jaxcnn.runtime import environment  # noqa: E402

# What XLA hands to its library YNNPACK; products are the part that is slow, see `ops.lowering`.
OTHERS = {
    "XLA's defaults": {},
    "sums by YNNPACK": {YNN_FUSIONS: "LIBRARY_FUSION_TYPE_REDUCE"},
    "products by YNNPACK": {YNN_FUSIONS: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"},
    "nothing by YNNPACK": {YNN_FUSIONS: ""},
}
CHOSEN = "chosen"  # what jaxcnn compiles with


def thinned(cases: list[sums.Case], every: int) -> list[sums.Case]:
    """Returns every n-th case, and all that are known to be wrong somewhere."""
    return [c for index, c in enumerate(cases) if index % every == 0 or sums.is_known(c)]


def versions(python: str) -> dict[str, str]:
    """Returns the versions of Python and jaxlib that an interpreter has."""
    program = (
        "import json, platform, jaxlib;"
        "print(json.dumps({'jaxlib': jaxlib.__version__, 'python': platform.python_version()}))"
    )
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"--python={python} cannot be run ({error.strerror})") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"--python={python} has no jaxlib: {lines[-1]}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def measure(python: str, name: str, cases: list[sums.Case], options: dict[str, str]) -> Any:
    """Returns the report on one set of options with one interpreter."""
    began = time.monotonic()
    try:
        wrong = list(isolated.run(cases, options, python))
    except RuntimeError as error:
        raise UserError(f"--python={python} cannot run the programs: {error}") from error
    return {
        **versions(python),
        "machine": environment.machine(),
        "system": f"{platform.system()} {platform.machine()}",
        "options": name,
        "compiler_options": options,
        "cases": len(cases),
        "seconds": round(time.monotonic() - began),
        "wrong": [{**w.case._asdict(), "got": w.got, "expected": w.expected} for w in wrong],
    }


def table(reports: list[dict[str, Any]]) -> str:
    """Returns the reports in Markdown, a line for each version and set of options."""
    lines = ["| jaxlib | options | YNNPACK computes | programs | wrong | which |"]
    lines.append("|" + "---|" * 2 + "---|" + "--:|" * 2 + "---|")
    for report in reports:
        wrong = report["wrong"]
        parts = []
        for kind in dict.fromkeys(case["kind"] for case in wrong):
            of_kind = [case for case in wrong if case["kind"] == kind]
            ended = sum(case["expected"] is None for case in of_kind)
            what = f"{ended} of {len(of_kind)} end or stop the process" if ended else ""
            parts.append(f"{kind} ({what or f'{len(of_kind)} wrong results'})")
        chosen = report["compiler_options"].get(YNN_FUSIONS, "what XLA chooses") or "nothing"
        lines.append(
            f"| {report['jaxlib']} | {report['options']} | {chosen} | {report['cases']:,} | "
            f"{len(wrong):,} | {', '.join(parts) or '-'} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Runs the program; 1 if the options that jaxcnn compiles with are wrong anywhere."""
    parser = script_parser(__doc__)
    parser.add_argument("--python", action="append", help="interpreter; repeatable")
    parser.add_argument("--whole", action="store_true", help="all programs, with jaxcnn's options")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to add a version to")
    parser.add_argument("--table", type=Path, help="print the table of such a file, no more")
    args = parser.parse_args()
    if args.table:
        print(outfiles.read(args.table, table))
        return 0
    reports: list[dict[str, Any]] = []
    if args.out:
        outfiles.check_file("--out", args.out, (".json", ""))
        if args.out.exists():
            reports = outfiles.read(args.out, lambda found: [dict(report) for report in found])
    ours = sums.every_case() if args.whole else sums.sampled_cases()
    others = thinned(sums.sampled_cases(), 10)
    is_wrong = False
    for python in args.python or [sys.executable]:
        version = versions(python)["jaxlib"]
        reports = [report for report in reports if report["jaxlib"] != version]
        sets = [(name, others, options) for name, options in OTHERS.items()]
        for name, cases, options in [*sets, (CHOSEN, ours, cpu_compiler_options(version))]:
            reports.append(measure(python, name, cases, options))
            print(table(reports[-1:]).splitlines()[-1], flush=True)
        is_wrong |= bool(reports[-1]["wrong"])
        # When a version is done: a file has a version whole or not at all.
        if args.out:
            outfiles.write("--out", args.out, json.dumps(reports, indent=1) + "\n")
    return int(is_wrong)


if __name__ == "__main__":
    cli.script(main)
