"""The server of the page: what it answers, what it refuses, and that predict says the same."""

import asyncio
import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import serve_helpers
from PIL import Image

from jaxcnn.data import image_files
from jaxcnn.errors import UserError
from jaxcnn.evaluate import grad_cam, sources
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import weights
from jaxcnn.models import lenet
from jaxcnn.serve import server

testclient = pytest.importorskip("starlette.testclient", reason="needs the extra serve")

from jaxcnn.serve import app as serve_app  # noqa: E402
from jaxcnn.serve import gallery as galleries  # noqa: E402
from jaxcnn.serve import networks as served  # noqa: E402
from jaxcnn.serve.app import create_app  # noqa: E402
from jaxcnn.serve.gallery import Gallery  # noqa: E402
from jaxcnn.serve.guard import host_name  # noqa: E402
from jaxcnn.serve.networks import ServedNetwork  # noqa: E402

HOME = "http://127.0.0.1:8000"


@pytest.fixture(scope="module", autouse=True)
def stock_lenet():
    """Compiles several times faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lenet.VARIANTS, "lenet", (lenet.LeNet, {"ops": "stock"}))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run of a LeNet on digits."""
    return Run(serve_helpers.write_run(tmp_path_factory.mktemp("served") / "run"))


@pytest.fixture(scope="module")
def networks(run, tmp_path_factory):
    """The run, and its weights as a file."""
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    step, variables = run.newest(pytest.fail)
    weights.write(path, weights.as_float16(variables), weights.card(run, "digits", step))
    return [
        ServedNetwork(sources.of_run(run, pytest.fail)),
        ServedNetwork(sources.of_weights(str(path))),
    ]


@pytest.fixture
def app(run, networks):
    """The application of both, with two places."""
    gallery = Gallery(run, threading.Lock())
    yield create_app(networks, [gallery, None], lambda name: name == "127.0.0.1", places=2)
    assert gallery.stop(10)


@pytest.fixture
def client(app):
    with testclient.TestClient(app, HOME, raise_server_exceptions=False) as opened:
        yield opened


def _predict(client, content, query="", **headers):
    return client.post(f"/api/predict{query}", content=content, headers=headers)


def test_the_page_and_its_files_allow_nothing_from_elsewhere(client):
    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")):
        response = client.get(path)
        assert response.status_code == 200 and kind in response.headers["content-type"]
        assert "://" not in re.sub(r"http://www.w3.org/\S*", "", response.text)
        assert not re.search(r"<script>|<style|\bon\w+=|\bstyle=", response.text)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"


def test_what_the_page_uses_is_there(client):
    page, script = client.get("/").text, client.get("/page.js").text
    for name in re.findall(r"at\(\"([\w-]+)\"\)", script):
        assert f'id="{name}"' in page, name
    for name in re.findall(r"(?:src|href|for|aria-controls|aria-labelledby)=\"([^\"]*)\"", page):
        assert f'id="{name}"' in page or name == "data:," or client.get(f"/{name}").is_success


def test_every_network_says_what_predict_says(client, run, tmp_path, command):
    for kind, mode in (("PNG", "RGB"), ("JPEG", "L"), ("GIF", "P"), ("PNG", "RGBA")):
        path = tmp_path / f"image.{kind.lower()}"
        path.write_bytes(serve_helpers.image_file(kind=kind, mode=mode))
        code, output, _ = command("predict", str(run.path), str(path), "--json")
        (expected,) = json.loads(output)["predictions"]
        response = _predict(client, path.read_bytes())
        first, second = response.json()["networks"]
        assert code == 0 and response.status_code == 200
        assert (first["class"], first["top"]) == (expected["class"], expected["top"])
        assert first["name"] == "run" and first["title"] == f"lenet, step {run.trained[0]}"
        assert second["title"] == "lenet, pretrained"
        # The same weights in 16 bits.
        probability = {top["class"]: top["probability"] for top in second["top"]}
        assert probability[first["class"]] == pytest.approx(first["top"][0]["probability"], abs=0.1)
        assert len(first["top"]) == 5 and 0 < first["milliseconds"] < 10_000
        assert "image" not in first


def test_the_image_that_the_network_has_seen_comes_along_if_it_is_asked_for(client, run):
    content = serve_helpers.image_file()
    (first, _) = _predict(client, content, "?pictures=1").json()["networks"]
    seen = base64.b64decode(first["image"].removeprefix("data:image/png;base64,"))
    expected = image_files.decode_content(content, run.image_shape)
    pixels = np.asarray(Image.open(io.BytesIO(seen)))
    np.testing.assert_array_equal(pixels.reshape(run.image_shape), expected)


def test_where_the_network_looked_is_what_grad_cam_says_of_its_class(client, run):
    content = serve_helpers.image_file()
    (first, _) = _predict(client, content, "?pictures=1").json()["networks"]
    laid_over = base64.b64decode(first["grad_cam"].removeprefix("data:image/png;base64,"))
    images = image_files.decode_content(content, run.image_shape)[None]
    looking = grad_cam.GradCam(sources.of_run(run, pytest.fail).load(), 1)
    heat = looking.maps(images, np.array([run.class_names.index(first["class"])]))
    opacity = np.asarray(Image.open(io.BytesIO(laid_over)))[..., 3]
    assert opacity.max() == 190 and opacity.min() < 100
    np.testing.assert_allclose(opacity, 190 * heat[0], atol=0.51)


def test_the_overlay_is_opaque_where_the_network_looks():
    picture = served.overlay(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert picture.tolist() == [[[64, 0, 128, 0], [230, 60, 60, 95], [255, 235, 80, 190]]]


def test_what_there_is_is_listed(client, run):
    found = client.get("/api/networks").json()
    assert found["max_bytes"] == serve_app.MAX_BYTES
    first, second = found["networks"]
    assert first["class_names"] == list(run.class_names) and first["image_shape"] == list(
        run.image_shape
    )
    assert (first["has_gallery"], second["has_gallery"]) == (True, False)


def _bomb(side):
    """A PNG of a few bytes that would be `side` x `side` pixels."""
    content = bytearray(serve_helpers.image_file())
    content[16:24] = side.to_bytes(4) * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "the file is empty: get a whole copy"),
        (b"no image", 415, "not an image in a format that is read here: choose a file in one of"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not an image in a format"),
        (serve_helpers.image_file()[:200], 400, "the image is damaged"),
        (_bomb(40_000), 400, "more than 50,000,000 pixels, which is the most: make it smaller"),
        (_bomb(8_000), 400, "8,000 x 8,000 pixels, more than 50,000,000 pixels, which is the most"),
        (b"x" * (serve_app.MAX_BYTES + 1), 413, "larger than 10 MiB, which is the most"),
    ],
    ids=["empty", "text", "svg", "cut", "bomb", "bomb that Pillow takes", "large"],
)
def test_a_file_that_is_no_image_to_be_taken_is_refused_in_a_line(client, content, status, message):
    response = _predict(client, content)
    assert response.status_code == status
    said = response.json()["error"]
    assert message in said and "\n" not in said
    assert (
        _predict(client, serve_helpers.image_file()).status_code == 200
    )  # its place is free again


def test_a_file_of_just_the_size_is_read(client):
    content = serve_helpers.image_file() + b"\0" * (
        serve_app.MAX_BYTES - len(serve_helpers.image_file())
    )
    assert _predict(client, content).status_code == 200


def test_a_file_without_its_length_is_refused_when_it_grows_too_large(client):
    parts = (b"x" * 2**20 for _ in range(11))
    assert _predict(client, parts).status_code == 413


def test_what_is_too_large_is_read_to_its_end_and_not_kept():
    part, read = b"x" * 2**20, []

    class Sending:
        """A request."""

        async def stream(self):
            for number in range(50):
                read.append(number)
                yield part

    tracemalloc.start()
    try:
        assert asyncio.run(serve_app._receive(Sending(), serve_app.MAX_BYTES)) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(read) == 50 and peak < 3 * serve_app.MAX_BYTES


def test_a_form_is_refused_with_what_to_send(client):
    response = client.post("/api/predict", files={"image": serve_helpers.image_file()})
    assert response.status_code == 415 and "--data-binary @FILE" in response.json()["error"]


def test_an_image_that_does_not_come_is_given_up(client, monkeypatch):
    async def slow(request, most):
        raise TimeoutError

    monkeypatch.setattr(serve_app, "_receive", slow)
    response = _predict(client, serve_helpers.image_file())
    assert response.status_code == 408 and "send it again" in response.json()["error"]


def test_what_is_too_much_at_once_is_sent_away_and_everything_else_answered(client, monkeypatch):
    """Three requests for two places while the worker is held."""
    held, placed = threading.Event(), threading.Semaphore(0)
    answers, receive = serve_app.answers, serve_app._receive

    def hold(*arguments):
        assert held.wait(10)
        return answers(*arguments)

    def receive_and_tell(*arguments):
        placed.release()
        return receive(*arguments)

    monkeypatch.setattr(serve_app, "answers", hold)
    monkeypatch.setattr(serve_app, "_receive", receive_and_tell)
    responses = []
    threads = [
        threading.Thread(
            target=lambda: responses.append(_predict(client, serve_helpers.image_file()))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert placed.acquire(timeout=10) and placed.acquire(timeout=10)
    third = _predict(client, serve_helpers.image_file())
    held.set()
    for thread in threads:
        thread.join(10)
    assert third.headers["retry-after"] == "1" and "send it again" in third.json()["error"]
    assert [response.status_code for response in responses] == [200, 200]
    assert _predict(client, serve_helpers.image_file()).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.1@evil.example", "[::1", "a/b"]
)
def test_a_stranger_s_name_for_this_machine_is_refused(client, host):
    response = client.get("/", headers={"Host": host})
    assert response.status_code == 421 and "not called" in response.json()["error"]
    assert "content-security-policy" in response.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9000"])
def test_another_page_s_requests_are_refused(client, origin):
    response = _predict(client, serve_helpers.image_file(), Origin=origin)
    assert response.status_code == 403 and "another page" in response.json()["error"]
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_own_page_s_requests_are_answered_and_no_other_origin_may_read(client):
    response = _predict(client, serve_helpers.image_file(), Origin=HOME)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/api/predict", headers=asked).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/predict", 405),
        ("POST", "/", 405),
        ("GET", "/../pyproject.toml", 404),
        ("GET", "/api/gallery/7", 404),
        ("GET", "/api/gallery/1", 404),
        ("GET", "/api/gallery/0/0/0", 404),
    ],
)
def test_other_requests_get_one_line(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status and list(response.json()) == ["error"]


def test_a_mistake_of_the_program_is_told_to_the_terminal_alone(client, monkeypatch, capsys):
    monkeypatch.setattr(serve_app, "answers", lambda *_: 1 // 0)
    response = _predict(client, serve_helpers.image_file())
    assert response.status_code == 500 and "Zero" not in response.text
    assert "content-security-policy" in response.headers
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_network_that_has_diverged_says_so(client, networks, monkeypatch):
    monkeypatch.setattr(
        networks[0]._classifier, "logits", lambda images: np.full((1, 10), np.nan, np.float32)
    )
    first, second = _predict(client, serve_helpers.image_file()).json()["networks"]
    assert "diverged" in first["error"] and "top" not in first
    assert "top" in second


def test_nothing_is_written(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    _predict(client, serve_helpers.image_file((300, 200)), "?pictures=1")
    assert list(tmp_path.iterdir()) == []


def _gallery(client):
    """The content of the first network's gallery, when it is there."""
    assert client.get("/api/gallery/0").json()["state"] == "idle"
    client.post("/api/gallery/0")
    for _ in range(500):
        found = client.get("/api/gallery/0").json()
        if found["state"] != "computing":
            return found
        time.sleep(0.02)
    pytest.fail("it does not end")


def test_the_gallery_has_the_confusion_that_evaluate_has(client, run, command):
    found = _gallery(client)
    _, output, _ = command("evaluate", str(run.path), "--json")
    expected = json.loads(output)
    assert found["confusion"] == expected["confusion"]
    assert found["accuracy"] == pytest.approx(expected["top1"])
    assert (found["examples"], found["split"], found["note"]) == (100, "test[:100]", "")
    shares = [item["label_probability"] for item in found["mistakes"]]
    assert 0 < len(shares) <= galleries.SHOWN and shares == sorted(shares)
    assert all(item["label"] != item["class"] for item in found["mistakes"])


def test_a_cell_has_its_images_the_surest_first(client, run):
    found = _gallery(client)
    images, labels = run.dataset().eval
    label = int(np.argmax(np.diag(found["confusion"])))
    cell = client.get(f"/api/gallery/0/{label}/{label}").json()
    assert cell["count"] == found["confusion"][label][label] == len(cell["images"]) > 1
    shares = [item["probability"] for item in cell["images"]]
    assert shares == sorted(shares, reverse=True)
    for item in cell["images"]:
        assert labels[item["index"]] == label and item["class"] == run.class_names[label]
        content = base64.b64decode(item["image"].partition(",")[2])
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        np.testing.assert_array_equal(pixels.reshape(run.image_shape), images[item["index"]])
        # An image of the gallery, sent back, is the same to the network.
    answer = _predict(client, content).json()["networks"][0]
    assert answer["top"][0]["probability"] == pytest.approx(shares[-1], abs=1e-5)
    assert client.get("/api/gallery/0/10/0").status_code == 404


def test_data_that_are_not_here_are_not_fetched(run, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    settings = run.settings
    section = settings.dataset
    other = Run(run.path)
    other.settings = settings.__class__(
        **{**vars(settings), "dataset": section.__class__(**{**vars(section), "name": "cifar10"})}
    )
    monkeypatch.setattr(other, "dataset", lambda: pytest.fail("it would download"))
    gallery = Gallery(other, threading.Lock())
    gallery.start()
    assert gallery.stop(10)
    state = gallery.state()
    assert state["state"] == "unavailable"
    assert f"the images of cifar10 are not in {tmp_path}, and a server downloads" in state["reason"]


def test_other_data_than_the_run_s_are_told(run, monkeypatch):
    changed = run.dataset()._replace(fingerprint="digits/2 sha256:0")
    other = Run(run.path)
    monkeypatch.setattr(other, "dataset", lambda: changed)
    gallery = Gallery(other, threading.Lock())
    gallery.start()
    gallery._thread.join(20)
    assert "these are digits/2 sha256:0" in gallery.state()["note"]


def test_a_gallery_that_is_being_computed_can_be_stopped(run, monkeypatch):
    whole = run.dataset()
    other = Run(run.path)
    reading, go_on = threading.Event(), threading.Event()

    def dataset():
        reading.set()
        assert go_on.wait(10)
        return whole

    monkeypatch.setattr(other, "dataset", dataset)
    gallery = Gallery(other, threading.Lock())
    gallery.start()
    assert reading.wait(10) and not gallery.stop(0.01)
    assert gallery.state()["state"] == "computing"
    go_on.set()
    assert gallery.stop(10) and "class_names" not in gallery.state()


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:8000", "localhost"),
        ("LOCALHOST", "localhost"),
        ("[::1]:80", "::1"),
        ("a:b:c", "a"),
        ("user@127.0.0.1", ""),
        ("a b", "a b"),
    ],
)
def test_the_name_in_a_host_header(header, name):
    assert host_name(header) == name


def test_the_socket_is_this_machine_s_and_known_by_its_names():
    with server.listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert server.address(listening) == f"http://127.0.0.1:{port}/"
        assert server.is_loopback(listening)
        ours = server.ours(listening, "127.0.0.1")
        assert ours("127.0.0.1") and ours("localhost") and ours("::1")
        assert not ours("") and not ours("evil.example") and not ours(socket.gethostname().lower())
        with pytest.raises(UserError, match=f"--port={port} of 127.0.0.1 is in use: choose anoth"):
            server.listen("127.0.0.1", port)
    with server.listen("0.0.0.0", 0) as listening:
        assert not server.is_loopback(listening)
        assert server.address(listening).startswith("http://127.0.0.1:")
        assert server.ours(listening, "0.0.0.0")(socket.gethostname().lower())


@pytest.mark.parametrize("host", ["192.0.2.1", "localhost:99", "a" * 100, "\ud800"])
def test_a_host_that_is_not_this_machine_s_is_one_line(host):
    with pytest.raises(UserError, match="--host=") as refusal:
        server.listen(host, 0)
    assert "\n" not in str(refusal.value)


def test_what_the_verb_refuses(command, run, monkeypatch, tmp_path):
    def last(*arguments):
        code, _, lines = command("serve", *map(str, arguments))
        return code, lines[-1]

    assert last() == (
        2,
        "error: one of runs, --pretrained is required; see jaxcnn serve --help",
    )
    assert last(run.path, "--port", "70000")[0] == 2
    assert last(run.path, run.path)[1].endswith("is given twice: name each run once")
    assert last("--pretrained", "a", "a") == (
        1,
        "error: --pretrained a is given twice: name each weights once",
    )
    assert "no run folder" in last(tmp_path)[1]
    with server.listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert f"--port={port} of 127.0.0.1 is in use" in last(run.path, "--port", port)[1]
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    assert last(run.path) == (
        1,
        "error: jaxcnn serve needs starlette and uvicorn: install them with pip install "
        "'jaxcnn[serve]'",
    )


def test_the_verb_compiles_says_where_and_ends_by_a_signal(command, run, monkeypatch):
    asked = {}

    def serve(app, listening):
        async def ask():
            sent = []
            scope = {
                "type": "http", "method": "GET", "path": "/", "query_string": b"",
                "headers": [(b"host", b"localhost")],
            }  # fmt: skip

            async def receive():
                return {"type": "http.request"}

            async def send(message):
                sent.append(message)

            await app(scope, receive, send)
            return sent[0]["status"]

        asked["status"] = asyncio.run(ask())
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serve", serve)
    code, output, lines = command("serve", str(run.path), "--port=0", "--host=0.0.0.0")
    assert code == 130 and asked == {"status": 200}
    assert re.fullmatch(r"http://127.0.0.1:\d+/ is waiting for images; Ctrl-C ends it\n", output), (
        output
    )
    assert lines[0].startswith("warning: --host=0.0.0.0 lets everybody")
    assert lines[1:] == ["compiling run"]


def test_the_files_of_the_page_are_part_of_the_package():
    folder = Path(serve_app.__file__).parent / "page"
    assert {path.name for path in folder.iterdir()} == {"index.html", "page.css", "page.js"}


@pytest.mark.slow
@pytest.mark.ci
def test_the_process_ends_at_once_by_a_signal_whatever_is_open(run):
    """One connection waits for its next request, another has sent half an image."""
    command = [sys.executable, "-m", "jaxcnn", "serve", str(run.path), "--port=0"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
        with (
            socket.create_connection(("127.0.0.1", port)) as idle,
            socket.create_connection(("127.0.0.1", port)) as sending,
        ):
            idle.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert idle.recv(12) == b"HTTP/1.1 200"
            sending.sendall(
                b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nhalf"
            )
            idle.sendall(b"GET /api/networks HTTP/1.1\r\nHost: localhost\r\n\r\n")
            idle.recv(12)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        assert process.returncode == 130 and time.monotonic() - began < 5
    assert said.splitlines() == ["compiling run"]
