"""Downloading: progress, checks, and what is said when it fails. The host is a loopback server."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import data_helpers as helpers
import pytest
import tensorflow_datasets as tfds

from jaxcnn import data
from jaxcnn.data import download, locate, meter
from jaxcnn.data.cifar10 import hosts, published
from jaxcnn.errors import UserError

WAYS_OUT = (
    "jaxcnn prepare --archive cifar-10-binary.tar.gz",
    "cifar-10-python.tar.gz",
    "--data_dir",
    "TFDS_DATA_DIR",
    "--config mobilenet:digits",
)


@pytest.fixture
def archive(tmp_path, monkeypatch) -> bytes:
    """The content of a fake archive that passes for the published one."""
    packed = helpers.pack(helpers.write_binary(tmp_path, "cifar10"), tmp_path / "a.tar.gz")
    helpers.publish_archive(monkeypatch, "cifar10", "binary", packed)
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return packed.read_bytes()


@pytest.fixture
def root(tmp_path) -> Path:
    """An empty data directory."""
    path = tmp_path / "data"
    path.mkdir()
    return path


def load(root):
    """Loads the fake CIFAR-10, which downloads it if need be."""
    return data.load("cifar10", data_dir=str(root), train_split="train", eval_split="test")


def failure(root):
    """Returns the message with which the download fails; nothing may be left of it."""
    with pytest.raises(UserError) as error:
        load(root)
    message = str(error.value)
    assert "\n" not in message
    assert [path for path in root.rglob("*") if path.is_file()] == []
    assert locate.find(root, "cifar10") is None
    return message


def test_the_table_agrees_with_tfds():
    for name, row in published.SETS.items():
        ((url, info),) = tfds.builder_cls(name).url_infos.items()
        layout = row.binary
        assert (layout.url, layout.archive_bytes, layout.archive_sha256) == (
            url,
            info.size,
            info.checksum,
        )


def test_first_load_downloads_prepares_and_loads(archive, root, monkeypatch, capfd):
    with helpers.Server(archive) as server:
        helpers.publish(monkeypatch, "cifar10", "binary", url=server.url)
        first = load(root)
        asked = len(server.starts)
        again = load(root)
        assert len(server.starts) == asked
    assert len(first.train.labels) == 5 * helpers.COUNT
    assert first.fingerprint == again.fingerprint
    assert "modified" not in first.fingerprint
    output = capfd.readouterr().err
    for stage in ("downloading cifar-10-binary.tar.gz", "preparing", "decoding"):
        assert stage in output


def test_a_file_that_tfds_downloaded_is_used(archive, root, monkeypatch):
    with helpers.Server(archive) as server:
        row = helpers.publish(monkeypatch, "cifar10", "binary", url=server.url)
        first = hosts.fetch(row, root)
    assert hosts.fetch(row, root) == first  # the server is gone
    assert first.is_relative_to(root / "downloads")
    assert first.read_bytes() == archive


def test_wrong_checksum_is_refused(archive, root, monkeypatch):
    with helpers.Server(archive[:-1] + b"x") as server:
        helpers.publish(monkeypatch, "cifar10", "binary", url=server.url)
        message = failure(root)
    assert "checksum" in message
    assert all(way in message for way in WAYS_OUT)


def test_refused_connection_names_the_ways_out_at_once(archive, root, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/cifar-10-binary.tar.gz"
        helpers.publish(monkeypatch, "cifar10", "binary", url=url)
        start = time.monotonic()
        message = failure(root)
    assert time.monotonic() - start < 5
    assert url in message and "refused" in message
    assert all(way in message for way in WAYS_OUT)


def test_silent_host_is_given_up_within_the_limit(archive, root, monkeypatch):
    assert download._ANSWER_S < 10
    monkeypatch.setattr(download, "_ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/cifar-10-binary.tar.gz"
        helpers.publish(monkeypatch, "cifar10", "binary", url=url)
        start = time.monotonic()
        message = failure(root)
    assert time.monotonic() - start < 5
    assert "answer" in message and all(way in message for way in WAYS_OUT)


def test_slow_name_lookup_is_given_up_within_the_limit(monkeypatch):
    monkeypatch.setattr(download, "_ANSWER_S", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: time.sleep(2))
    start = time.monotonic()
    with pytest.raises(download.requests.RequestException, match="no answer"):
        download.check_reachable("http://nowhere.invalid/x")
    assert time.monotonic() - start < 1


def test_missing_file_is_reported(archive, root, monkeypatch):
    with helpers.Server(archive) as server:
        monkeypatch.setattr(server._server.RequestHandlerClass, "do_GET", _not_found)
        helpers.publish(monkeypatch, "cifar10", "binary", url=server.url)
        assert "404" in failure(root)


def _not_found(handler):
    handler.send_error(404)


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connection_is_continued(archive, root, monkeypatch, ranges):
    part = len(archive) // 3
    # The first request only asks whether the host answers.
    with helpers.Server(archive, breaks_at=part, times=2, ranges=ranges) as server:
        row = helpers.publish(monkeypatch, "cifar10", "binary", url=server.url)
        assert hosts.fetch(row, root).read_bytes() == archive
    assert len(server.starts) == 3
    # requests may lose the last block before the break; nothing else may be fetched again
    assert part - (1 << 14) <= server.starts[2] <= part if ranges else server.starts[2] == 0


def test_connection_that_always_breaks_is_given_up(archive, root, monkeypatch):
    with helpers.Server(archive, breaks_at=1000, times=99, ranges=False) as server:
        helpers.publish(monkeypatch, "cifar10", "binary", url=server.url)
        message = failure(root)
    assert "breaks off" in message and all(way in message for way in WAYS_OUT)
    assert len(server.starts) == 1 + download._ATTEMPTS


def test_stalled_transfer_is_given_up(archive, root, monkeypatch):
    monkeypatch.setattr(download, "_STALL_S", 0.2)
    monkeypatch.setattr(download, "_ATTEMPTS", 2)
    with helpers.Server(archive) as server:
        monkeypatch.setattr(server._server.RequestHandlerClass, "do_GET", _stall)
        helpers.publish(monkeypatch, "cifar10", "binary", url=server.url)
        assert "does not answer" in failure(root)


def _stall(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.flush()
    time.sleep(1)


def test_unwritable_directory_is_noticed_before_the_download(archive, monkeypatch, tmp_path):
    with helpers.Server(archive) as server:
        helpers.publish(monkeypatch, "cifar10", "binary", url=server.url)
        blocked = tmp_path / "data"
        blocked.mkdir()
        monkeypatch.setattr(Path, "touch", _no_space)
        with pytest.raises(UserError, match="cannot write to the data directory"):
            load(blocked)
    assert server.starts == []


def _no_space(path):
    raise OSError(30, "Read-only file system")


def test_program_reports_failure_in_one_line(tmp_path):
    # A proxy that refuses stands for the unreachable host, in a real process.
    environment = os.environ | {"https_proxy": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    environment.pop("TFDS_DATA_DIR", None)
    command = [sys.executable, "-m", "jaxcnn", "prepare"]
    start = time.monotonic()
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert time.monotonic() - start < 15
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert all(way in done.stderr for way in WAYS_OUT)
    assert not (tmp_path / "tensorflow_datasets" / "cifar10").exists()


def test_progress_line_has_rate_and_remaining_time():
    line = meter.progress_line("downloading x", 85_000_000, 170_000_000, "MB", 1e6, 500_000, 10.0)
    assert line == "downloading x: 85.0 of 170.0 MB, 0.05 MB/s, 28 min left"
    line = meter.progress_line("decoding x", 300, 300, "images", 1.0, 300, 2.0)
    assert line == "decoding x: 300 of 300 images, 150 images/s, took 2 s"
