"""How much memory a training on a folder of photographs takes at most, with all that it imports.

python scripts/checks/folder_memory.py --out docs/results/folder-memory.json

Makes photographs of many sizes, up to 24 megapixels, as JPEG, PNG and WebP: parts of the pictures
that scikit-learn, matplotlib and the system bring along, each picture a class. Then trains
`mobilenet:folder` for an epoch in a process of its own, once decoding the files and once with the
decoded images found, and notes the most memory that each process had. Ends with exit code 1 above
--most gigabytes.
"""

import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import sklearn
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jaxcnn import cli  # noqa: E402
from jaxcnn.commands import outfiles  # noqa: E402
from jaxcnn.commands.parser import at_least, script_parser  # noqa: E402
from jaxcnn.errors import UserError  # noqa: E402
from jaxcnn.runtime import environment  # noqa: E402

LEAST_SIDE, MOST_SIDE = 100, 2000  # of most photographs, drawn evenly by ratio
LARGE = (6000, 4000)  # one in a thousand
CLASSES = 10
_ORIENTATION = 0x0112  # the tag of EXIF


class Photo(NamedTuple):
    """A file to be made, and how."""

    path: Path
    source: Image.Image
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    orientation: int


def sources() -> Iterator[Image.Image]:
    """Yields pictures that are here, the first two photographs of scikit-learn."""
    folders = [
        (Path(sklearn.__file__).parent / "datasets" / "images", 1),
        (Path(matplotlib.get_data_path()) / "sample_data", 1),
        (Path("/usr/share"), 100_000),  # no icons, which are small and alike
    ]
    for folder, least in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png")):
            if path.stat().st_size >= least:
                with Image.open(path) as image:
                    yield image.convert("RGB")


def photos(root: Path, count: int) -> Iterator[Photo]:
    """Yields what is to be made, the same each time, in the formats' usual shares."""
    rng = np.random.default_rng(0)
    pictures = list(itertools.islice(sources(), CLASSES))
    for index in range(count):
        label = index % len(pictures)
        source = pictures[label]
        low, high = rng.uniform(0, 0.6, 2), rng.uniform(0.7, 1, 2)
        box = (*(low * source.size), *(high * source.size))
        sides = np.exp(rng.uniform(np.log(LEAST_SIDE), np.log(MOST_SIDE), 2)).astype(int)
        suffix = str(rng.choice(["jpg", "png", "webp"], p=[0.9, 0.07, 0.03]))
        if index % 1000 == 0:
            sides, suffix = np.array(LARGE), "png" if index % 5000 == 0 else "jpg"
        part = "val" if index % 10 == 9 else "train"
        path = root / part / f"picture{label}" / f"{index:06d}.{suffix}"
        yield Photo(path, source, box, (int(sides[0]), int(sides[1])), int(rng.integers(1, 9)))


def make(photo: Photo) -> None:
    """Writes a photograph."""
    image = photo.source.resize(photo.size, Image.Resampling.BILINEAR, photo.box)
    exif = Image.Exif()
    exif[_ORIENTATION] = photo.orientation
    options: dict[str, Any] = {".png": {"compress_level": 1}, ".webp": {"method": 0}}.get(
        photo.path.suffix, {}
    )
    image.save(photo.path, exif=exif, **options)


def make_all(root: Path, count: int) -> dict[str, Any]:
    """Writes the photographs; returns what there are."""
    formats: Counter[str] = Counter()
    size = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = photos(root, count)
        while chunk := list(itertools.islice(found, 500)):
            for photo in chunk:
                photo.path.parent.mkdir(parents=True, exist_ok=True)
            list(pool.map(make, chunk))
            formats.update(photo.path.suffix[1:] for photo in chunk)
            size += sum(photo.path.stat().st_size for photo in chunk)
            print(f"made {formats.total():,} of {count:,}", file=sys.stderr, flush=True)
    return {
        "files": formats.total(),
        "formats": dict(formats),
        "bytes": size,
        "sides": [LEAST_SIDE, MOST_SIDE],
        "largest": list(LARGE),
    }


def train(root: Path, workdir: Path, image_size: int) -> dict[str, Any]:
    """Trains for an epoch in a process of its own; returns its most memory and its last metrics."""
    command = [
        *(sys.executable, "-m", "jaxcnn", "train", "--config=mobilenet:folder", "--notrain.plots"),
        *(f"--data_dir={root}", f"--workdir={workdir}", "--train.epochs=1"),
        f"--dataset.image_size={image_size}",
    ]
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise UserError(f"{' '.join(command)} ended with exit code {child.returncode}")
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "peak_rss_bytes": usage.ru_maxrss * scale,
        "eval_accuracy": summary["eval_accuracy"],
        "eval_loss": summary["eval_loss"],
    }


def main() -> int:
    """Runs the program; 1 if a training took more memory than allowed."""
    parser = script_parser(__doc__)
    parser.add_argument("--count", type=at_least(20), default=20_000, help="photographs")
    parser.add_argument(
        "--image_size", type=at_least(8), default=32, help="of the network's images"
    )
    parser.add_argument("--most", type=float, default=2.0, help="gigabytes of memory allowed")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.out:
        outfiles.check_file("--out", args.out, (".json",))
    base = Path(tempfile.mkdtemp(prefix="folder-memory-"))
    try:
        made = make_all(base / "photos", args.count)
        runs = {
            name: train(base / "photos", base / name, args.image_size)
            for name in ("decoding", "decoded")
        }
    finally:
        shutil.rmtree(base)
    if runs["decoding"]["eval_loss"] != runs["decoded"]["eval_loss"]:
        raise UserError("the decoded images gave another training than decoding them")
    report = {
        "photographs": made,
        "image_size": args.image_size,
        "runs": runs,
        "most_gigabytes": args.most,
        "git_revision": environment.git_revision(),
        "machine": environment.machine(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in ("jax", "pillow", "numpy")},
    }
    print(json.dumps(report, indent=2))
    if args.out:
        outfiles.write("--out", args.out, json.dumps(report, indent=2) + "\n")
    return int(max(run["peak_rss_bytes"] for run in runs.values()) > args.most * 1e9)


if __name__ == "__main__":
    cli.script(main)
