"""A thousand images for a server of `jaxcnn serve`: none is lost, and its memory does not grow.

python scripts/checks/serve_load.py --out docs/results/serve-load.json

Trains LeNet and MobileNet on digits for an epoch, serves both in a process of their own and has
eight clients send photographs of several sizes and formats to it, half of them with pictures of
what the networks have seen, and now and then a file that is no image, or a damaged one. Each has
to get the status that is due, and the same image the same probabilities each time. Ends with exit
code 1 if one does not, or if the memory grows by more than --most megabytes after the first tenth.
"""

import contextlib
import http.client
import io
import itertools
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import sklearn
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jaxcnn import cli  # noqa: E402
from jaxcnn.commands import outfiles  # noqa: E402
from jaxcnn.commands.parser import at_least, script_parser  # noqa: E402
from jaxcnn.errors import UserError  # noqa: E402
from jaxcnn.runtime import environment  # noqa: E402

NETWORKS = ("lenet", "mobilenet")
SHARES = (0.1, 0.5, 1.0)  # of the requests, after which memory is read
_PHOTOGRAPHS = Path(sklearn.__file__).parent / "datasets" / "images"
_SIZES = ((32, 32), (320, 214), (1280, 854), (2400, 1800))
_FORMATS = ("JPEG", "PNG", "WEBP")


class Server(NamedTuple):
    """A server in a process of its own.

    Attributes:
        pid: Of the process.
        host: Name and port.
    """

    pid: int
    host: str

    def rss(self) -> int:
        """Returns the memory that the process has now, in bytes."""
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return 1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0])


class Sent(NamedTuple):
    """What is sent, and the status that is due."""

    name: str
    content: bytes
    status: int


@contextlib.contextmanager
def serving(runs: list[Path]) -> Iterator[Server]:
    """While entered, a server of these runs answers; it has to end by a signal afterwards."""
    command = [sys.executable, "-m", "jaxcnn", "serve", *map(str, runs), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.match(r"http://(\S+)/ ", process.stdout.readline())
            if found is None:
                raise UserError(f"the server of {', '.join(map(str, runs))} did not begin")
            yield Server(process.pid, found[1])
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
    if code != 128 + signal.SIGINT:
        raise UserError(f"the server ended with {code}")


def train(folder: Path) -> list[Path]:
    """Trains the networks for an epoch and returns the run folders."""
    for name in NETWORKS:
        options = ["--train.epochs=1", "--optim.warmup_epochs=0", "--notrain.plots"]
        command = [
            *(sys.executable, "-m", "jaxcnn", "train", f"--config={name}:digits"),
            *(f"--workdir={folder / name}", *options),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [folder / name for name in NETWORKS]


def contents() -> list[Sent]:
    """Returns what is sent, the same each time."""
    found = []
    for path, size, kind in itertools.product(sorted(_PHOTOGRAPHS.glob("*.jpg")), _SIZES, _FORMATS):
        buffer = io.BytesIO()
        options: dict[str, Any] = {"PNG": {"compress_level": 1}, "WEBP": {"method": 0}}
        with Image.open(path) as image:
            image.resize(size).save(buffer, kind, **options.get(kind, {}))
        if len(content := buffer.getvalue()) < 10 * 2**20:
            found.append(Sent(f"{path.stem}, {size[0]}x{size[1]}, {kind}", content, 200))
    damaged = found[0].content[: len(found[0].content) // 2]
    return [*found, Sent("text", b"no image", 415), Sent("damaged", damaged, 400)]


def send(server: Server, sent: list[Sent], requests: int, clients: int) -> dict[str, Any]:
    """Sends the requests and returns what came back."""
    numbers = iter(range(requests))
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    answers: dict[str, Any] = {}
    memory: dict[str, int] = {}
    marks = {round(share * requests) for share in SHARES}
    lock = threading.Lock()

    def note(what: Sent, status: int, content: dict[str, Any]) -> None:
        statuses[status] += 1
        if status == 503:
            return
        if status != what.status:
            wrong.append(f"{what.name}: {status} {content.get('error', '')}")
        elif status == 200:
            top = [network["top"] for network in content["networks"]]
            if answers.setdefault(what.name, top) != top:
                wrong.append(f"{what.name}: other probabilities than before")
        if (answered := statuses.total() - statuses[503]) in marks:
            memory[str(answered)] = server.rss()

    def client() -> None:
        connection = http.client.HTTPConnection(server.host, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return connection.close()
            what = sent[number % len(sent)]
            path = "/api/predict" + "?pictures=1" * (number % 2)
            while True:
                connection.request("POST", path, what.content)
                response = connection.getresponse()
                content = json.loads(response.read())
                with lock:
                    note(what, response.status, content)
                if response.status != 503:
                    break
                time.sleep(float(response.headers["Retry-After"]))

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    return {
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "answered": statuses.total() - statuses[503],
        "wrong": wrong,
        "rss_bytes": memory,
    }


def main() -> int:
    """Runs the program; 1 if a request was lost or the memory grew."""
    parser = script_parser(__doc__)
    parser.add_argument("--requests", type=at_least(20), default=1000, help="images to send")
    parser.add_argument("--clients", type=at_least(1), default=8, help="at the same time")
    parser.add_argument("--most", type=float, default=50.0, help="megabytes of growth allowed")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.out:
        outfiles.check_file("--out", args.out, (".json",))
    sent = contents()
    base = Path(tempfile.mkdtemp(prefix="serve-load-"))
    try:
        with serving(train(base)) as server:
            before = server.rss()
            found = send(server, sent, args.requests, args.clients)
    finally:
        shutil.rmtree(base)
    memory = list(found["rss_bytes"].values())
    report = {
        "networks": [f"{name}:digits" for name in NETWORKS],
        "requests": args.requests,
        "clients": args.clients,
        "files": len(sent),
        "largest_file_bytes": max(len(what.content) for what in sent),
        "rss_bytes_before": before,
        **found,
        "most_megabytes": args.most,
        "git_revision": environment.git_revision(),
        "machine": environment.machine(),
        "python": platform.python_version(),
        "packages": {
            name: metadata.version(name) for name in ("jax", "pillow", "starlette", "uvicorn")
        },
    }
    print(json.dumps(report, indent=2))
    if args.out:
        outfiles.write("--out", args.out, json.dumps(report, indent=2) + "\n")
    is_lost = found["answered"] != args.requests or bool(found["wrong"])
    return int(is_lost or memory[-1] - memory[0] > args.most * 1e6)


if __name__ == "__main__":
    cli.script(main)
