"""Trains the four networks, and plain against residual, by the recipes of a budget, and compares.

jaxcnn study                               # minutes, on digits, without a download
jaxcnn study --budget hour
jaxcnn study --budget night --status       # what is done, what is left; trains nothing
jaxcnn study --budget night --networks lenet mobilenet --epochs 60

Leaves in --out/BUDGET a run folder for each network and seed, report.html, study.md, study.json
and pictures. The same command continues where it stopped, however often it is interrupted.

{budgets}
"""

import argparse
from pathlib import Path

from jaxcnn import report
from jaxcnn.commands import outfiles, training
from jaxcnn.data.meter import Meter
from jaxcnn.evaluate import run as runs
from jaxcnn.run import observers
from jaxcnn.run.files import RunFiles
from jaxcnn.study import progress, recipes, study
from jaxcnn.study.trainings import claimed

_BUDGETS = "budgets:\n" + "\n".join(
    f"  {name:8} {budget.dataset}, {budget.epochs} epochs, {sum(budget.seeds.values())} trainings; "
    f"{budget.description}"
    for name, budget in recipes.BUDGETS.items()
)
__doc__ = (__doc__ or "").format(budgets=_BUDGETS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument(
        "--budget", choices=recipes.BUDGETS, default="minutes", help="default: minutes"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("study"), help="folder of the results (default: study)"
    )
    parser.add_argument(
        "--networks", nargs="+", default=(), metavar="NAME",
        help=f"only these of {', '.join(recipes.NETWORKS)}, beside what is finished",
    )  # fmt: skip
    parser.add_argument(
        "--epochs", type=int, help="of every training; their results have a folder of their own"
    )
    parser.add_argument("--jobs", **training.JOBS)
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: TFDS's own")
    parser.add_argument(
        "--status", action="store_true", help="show what is done and left, and train nothing"
    )


def run(args: argparse.Namespace) -> int | None:
    """Trains what is left, compares, and prints the results; returns 1 if a training failed."""
    budget = recipes.chosen(args.budget, args.networks, args.epochs)
    out = args.out / budget.folder
    jobs = study.jobs(budget, out, args.data_dir)
    if args.status:
        found = progress.states(jobs)
        print(f"{progress.table(found)}\n{progress.remaining(found)}")
        return None
    outfiles.check_folder("--out", out, (*study.FILES, *report.FILES))
    training.prepare([job.config for job in jobs])
    beside = training.beside(args.jobs)
    with claimed(out):
        found = progress.states(jobs)
        print(f"{progress.table(found)}\n{progress.remaining(found)}", flush=True)
        try:
            results = study.run(budget, jobs, out, observers.create_reporter(), beside)
            # Seed 0 stands for all: it is named beforehand, not picked by what it reached.
            first = [job.path for job in jobs if job.config.seed == 0]
            trained = [path for path in first if RunFiles(path).summary() is not None]
            if trained:
                named, depths = runs.named(trained), budget.depths
                with Meter("comparing", report.steps(named, depths), "steps") as meter:
                    report.write(
                        named, out, data_dir=args.data_dir, depths=depths,
                        say=meter.say, advance=meter.advance,
                    )  # fmt: skip
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command continues") from None
    print(f"\n{study.text(results)}\neverything is in {out}: report.html, {', '.join(study.FILES)}")
    return 1 if results["failed"] else 0
