"""Classifies image files with a trained network.

python scripts/predict.py runs/mobilenet car.jpg ship.png holidays/ '*.webp'
python scripts/predict.py runs/mobilenet car.jpg --json --picture car_classified.png
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from jaxcnn import errors, plots
from jaxcnn.evaluate import evaluation, image_files
from jaxcnn.evaluate.run import Run
from jaxcnn.runtime import environment

_BATCH = 100


def main() -> int:
    """Runs the program; 1 if any file could not be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("images", nargs="+", help="image files, folders, or patterns in quotes")
    parser.add_argument("--json", action="store_true", help="print JSON in place of lines")
    parser.add_argument("--picture", type=Path, help="PNG file to draw the first 16 results into")
    args = parser.parse_args()
    environment.use_compilation_cache()
    run = Run(args.run)
    images, used, refused = [], [], []
    for path in image_files.find(args.images):
        try:
            images.append(image_files.read(path, run.image_shape))
            used.append(path)
        except image_files.Refused as error:
            refused.append(str(error))
            print(f"error: {error}", file=sys.stderr)
    results = []
    if images:
        step, network = evaluation.classifier(
            run, lambda text: print(text, file=sys.stderr), min(len(images), _BATCH)
        )
        probabilities = network.probabilities(np.stack(images))
        for path, row in zip(used, probabilities, strict=True):
            top = np.argsort(-row, kind="stable")[:5]
            likeliest = [{"class": run.class_names[i], "probability": float(row[i])} for i in top]
            results.append({"file": str(path), "class": run.class_names[top[0]], "top": likeliest})
        if args.picture:
            items = [
                plots.Prediction(image, row, caption=path.name)
                for image, row, path in zip(images, probabilities, used, strict=True)
            ]
            title = f"{run.model_name}, step {step}"
            plots.save(plots.predictions(items[:16], run.class_names, title), args.picture)
    if args.json:
        print(json.dumps({"run": run.name, "predictions": results, "refused": refused}, indent=2))
    for result in () if args.json else results:
        shown = [f"{entry['class']} {100 * entry['probability']:.1f} %" for entry in result["top"]]
        print(f"{result['file']}: {', '.join(shown)}")
    return 1 if refused else 0


if __name__ == "__main__":
    errors.run(main)
