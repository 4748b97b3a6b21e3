"""Prepares CIFAR-10 (or CIFAR-100) for training, from an archive or by downloading it.

    python scripts/prepare_cifar10.py                                        # download, 170 MB
    python scripts/prepare_cifar10.py --archive ~/cifar-10-binary.tar.gz     # takes about 25 s

No TensorFlow is needed. Ask for `--help`; see `jaxcnn/data/prepare.py` for how it works.
"""

import argparse
import sys

from jaxcnn import data
from jaxcnn.data.cifar10.prepare import prepare
from jaxcnn.data.cifar10.published import SETS
from jaxcnn.data.locate import data_root, find
from jaxcnn.errors import UserError


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--archive",
        default="",
        metavar="PATH",
        help="the binary or python archive, or the folder it unpacks to; without it, download",
    )
    parser.add_argument(
        "--allow-modified",
        action="store_true",
        help="accept an archive or folder that is not the published one; every run will say so",
    )
    parser.add_argument(
        "--data_dir",
        default="",
        metavar="DIR",
        help="where to put it (default: TFDS_DATA_DIR, then ~/tensorflow_datasets)",
    )
    parser.add_argument("--dataset", default="cifar10", choices=list(SETS))
    args = parser.parse_args()
    try:
        already = find(data_root(args.data_dir), args.dataset)
        directory = prepare(
            args.dataset,
            data_dir=args.data_dir,
            archive_path=args.archive,
            allow_modified=args.allow_modified,
        )
        # Reading it back shows that it can be read, and leaves the decoded images in the cache.
        loaded = data.load(
            args.dataset, data_dir=args.data_dir, train_split="train", eval_split="test"
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: nothing half-prepared is left", file=sys.stderr)
        return 130
    print(f"{args.dataset} {'was already' if already else 'is'} prepared in {directory}")
    print(f"  {len(loaded.train.labels):,} train and {len(loaded.eval.labels):,} test images")
    print(f"  fingerprint: {loaded.fingerprint}")
    if already:
        print(f"  to prepare it anew, delete {directory} first")
    options = []
    if args.data_dir:
        options.append(f"--config.dataset.data_dir={data_root(args.data_dir)}")
    if args.dataset != "cifar10":
        options.append(f"--config.dataset.name={args.dataset}")
    print("to train:", *["python -m jaxcnn.main --config configs/mobilenet.py", *options])
    return 0


if __name__ == "__main__":
    sys.exit(main())
