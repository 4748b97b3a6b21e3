"""python -m jaxcnn.main --config configs/mobilenet.py: the same as `jaxcnn train`."""

import sys

from jaxcnn import cli

if __name__ == "__main__":
    cli.main(["train", *sys.argv[1:]])
