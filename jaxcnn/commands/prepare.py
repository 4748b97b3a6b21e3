"""Prepares a data set for training, from its published files or by downloading them.

jaxcnn prepare                                             # download, 170 MB
jaxcnn prepare --from huggingface                          # the same images, 144 MB
jaxcnn prepare --archive ~/cifar-10-binary.tar.gz
jaxcnn prepare --archive train-00000-of-00001.parquet --archive test-00000-of-00001.parquet
jaxcnn prepare cifar100 --archive cifar-100-python/ --data_dir data
jaxcnn prepare fashion_mnist --archive ~/fashion       # the folder of its four .gz files
"""

import argparse
from pathlib import Path

from jaxcnn import data
from jaxcnn.data import prepare
from jaxcnn.data.cifar10.hosts import HOSTS
from jaxcnn.data.locate import data_root, find
from jaxcnn.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument(
        "dataset", nargs="?", default="cifar10", choices=prepare.NAMES, help="default: cifar10"
    )
    parser.add_argument(
        "--archive",
        action="append",
        default=[],
        metavar="PATH",
        help="of CIFAR the binary or python archive, the folder it unpacks to, or parquet files or "
        "their folder; of others the folder of the published files; without it, download",
    )
    parser.add_argument(
        "--from",
        dest="host",
        choices=HOSTS,
        help="the host to download CIFAR from: the author's (default), or Hugging Face",
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


def run(args: argparse.Namespace) -> None:
    """Prepares the data set, reads it back and prints where it is and how to train on it."""
    args.archive = [path for path in args.archive if path]
    if args.host and args.archive:
        raise UserError(f"--from={args.host} downloads what --archive has: give one of them")
    try:
        already = find(data_root(args.data_dir), args.dataset)
        if already and args.archive:
            _check_unused(args, already)
        directory = prepare.prepare(
            args.dataset,
            data_dir=args.data_dir,
            archives=args.archive,
            host=args.host or "",
            allow_modified=args.allow_modified,
        )
        # Reading it back shows that it can be read, and leaves the decoded images in the cache.
        loaded = data.load(
            args.dataset, data_dir=args.data_dir, train_split="train", eval_split="test"
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("\ninterrupted: nothing half-prepared is left") from None
    print(f"{args.dataset} {'was already' if already else 'is'} prepared in {directory}")
    print(f"  {len(loaded.train.labels):,} train and {len(loaded.eval.labels):,} test images")
    print(f"  fingerprint: {loaded.fingerprint}")
    if already:
        unused = f"{' '.join(args.archive)} was checked and not used; " if args.archive else ""
        print(f"  {unused}to prepare it anew, delete {directory} first")
    name = "mobilenet" if args.dataset == "cifar10" else f"mobilenet:{args.dataset}"
    option = f" --data_dir={data_root(args.data_dir)}" if args.data_dir else ""
    print(f"to train: jaxcnn train --config {name}{option}")


def _check_unused(args: argparse.Namespace, already: Path) -> None:
    """Raises UserError if an archive that is not needed is missing, damaged or not as published."""
    try:
        prepare.read(args.dataset, args.archive, allow_modified=args.allow_modified)
    except UserError as error:
        raise UserError(
            f"{error}; {args.dataset} is prepared already in {already}, which is used where "
            "--archive is left out"
        ) from error
