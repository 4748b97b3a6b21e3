"""Evaluates a run: loss, accuracy, figures for each class, calibration.

python scripts/evaluate.py runs/mobilenet
python scripts/evaluate.py runs/mobilenet --split 'train[:5000]' --json
"""

import argparse
import json
import sys
from pathlib import Path

from jaxcnn import errors
from jaxcnn.evaluate import evaluation, scores
from jaxcnn.evaluate.run import Run
from jaxcnn.runtime import environment


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--split", default="", help="TFDS split; default: the run's own")
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: the run's own")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()
    environment.use_compilation_cache()
    run = Run(args.run)
    result = evaluation.evaluate(
        run,
        lambda text: print(text, file=sys.stderr),
        split=args.split,
        data_dir=args.data_dir,
    )
    text = json.dumps(evaluation.as_json(run, result, args.split), indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text if args.json else scores.table(result.scores, run.class_names))


if __name__ == "__main__":
    errors.run(main)
