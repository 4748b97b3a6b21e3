"""Serves a page on this machine on which to try networks with images of one's own.

jaxcnn serve runs/lenet runs/mobilenet
jaxcnn serve runs/mobilenet --pretrained net.safetensors --port 8080
jaxcnn serve --pretrained first.safetensors second.safetensors

Programs send the content of an image file to /api/predict and get JSON. Images
go to this machine alone and are written nowhere. Needs the extra serve:
pip install 'jaxcnn[serve]'.
"""

import argparse
import os
import socket
import sys
import threading
from pathlib import Path

from jaxcnn.commands.console import usage_error, warn
from jaxcnn.errors import UserError
from jaxcnn.evaluate import run as runs
from jaxcnn.evaluate import sources
from jaxcnn.run.files import shown
from jaxcnn.runtime import compilation_cache
from jaxcnn.serve import server

_HOST = "127.0.0.1"
_PORT = 8000
_END_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    # Optional for the parser alone: one network is needed, of either kind.
    parser.add_argument("runs", nargs="*", type=Path, help="run folders")
    parser.set_defaults(intermixed=True)
    parser.add_argument(
        "--pretrained",
        metavar="NAME",
        nargs="+",
        action="extend",
        default=[],
        help="weights that come with this version, or .safetensors files that were made of runs",
    )
    parser.add_argument(
        "--host",
        default=_HOST,
        help=f"name or address to listen on; default: {_HOST}, which only this machine reaches",
    )
    parser.add_argument(
        "--port", type=_port, default=_PORT, help=f"default: {_PORT}; 0 for any that is free"
    )


def run(args: argparse.Namespace) -> None:
    """Serves until a signal ends it."""
    if not args.runs and not args.pretrained:
        usage_error("one of runs, --pretrained is required; see jaxcnn serve --help")
    server.check_installed()
    found = runs.named(args.runs)
    given = [sources.of_run(run, warn) for run in found.values()] + _weights(args.pretrained)
    with server.listen(args.host, args.port) as listening:
        if not server.is_loopback(listening):
            warn(
                f"warning: --host={args.host} lets everybody who reaches this machine send images, "
                f"without a password: {_HOST} is for this machine alone"
            )
        compilation_cache.use_compilation_cache()
        _serve(args.host, listening, given, list(found.values()))


def _weights(names: list[str]) -> list[sources.Source]:
    """Returns the networks of `--pretrained`."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--pretrained {name} is given twice: name each weights once")
    # A run may have the same name.
    return [
        sources.of_weights(name)._replace(name=f"{shown(Path(name))} (pretrained)")
        for name in names
    ]


def _serve(
    host: str, listening: socket.socket, given: list[sources.Source], found: list[runs.Run]
) -> None:
    """Compiles the networks, those of `found` first, and answers requests."""
    from jaxcnn.serve.app import create_app
    from jaxcnn.serve.gallery import Gallery
    from jaxcnn.serve.networks import ServedNetwork

    networks = []
    for source in given:
        warn(f"compiling {source.name}")
        networks.append(ServedNetwork(source))
    alone = threading.Lock()
    galleries = [Gallery(run, alone) for run in found]
    without = [None] * (len(given) - len(found))
    app = create_app(networks, [*galleries, *without], server.ours(listening, host))
    print(f"{server.address(listening)} is waiting for images; Ctrl-C ends it", flush=True)
    try:
        server.serve(app, listening)
    finally:
        if not all([gallery.stop(_END_SECONDS) for gallery in galleries]):
            # Data are being read, which cannot be interrupted; nothing is lost with the process.
            sys.stdout.flush()
            os._exit(130)


def _port(text: str) -> int:
    """Returns a port's number."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a whole number from 0 to 65535")
    return number
