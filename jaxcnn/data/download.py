"""How is a file downloaded from a slow host, and what is said when that fails?

TFDS keeps the downloaded file, checks its checksum and finds it again. The transfer itself is done
here, because TFDS 4.9.10 waits without limit for a host that does not answer, retries an
unreachable one for minutes before it reports it, and starts anew where a connection breaks.
"""

import hashlib
import queue
import shutil
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums, download_manager, downloader
from tensorflow_datasets.core.utils.lazy_imports_utils import promise

from jaxcnn.data.meter import Meter
from jaxcnn.errors import UserError

_ANSWER_S = 9.0  # for name look-up, connection and first answer together
_STALL_S = 60.0  # for the next bytes of a transfer that has begun
_ATTEMPTS = 5  # without a new byte
_PAUSE_S = 2.0  # between attempts


def fetch_file(
    url: str, url_info: checksums.UrlInfo | None, name: str, root: Path, ways_out: str
) -> Path:
    """Returns the path of a file, downloading it unless it is there.

    Args:
        url: Where it is published.
        url_info: Its size and SHA-256; None if they are not published.
        name: Of the data set.
        root: The data directory; the file lands in `downloads` below, where TFDS would put it.
        ways_out: What to say on how to do without the download.

    Raises:
        UserError: Within 10 s if the host cannot be reached; later if the transfer breaks off for
            good or gives another file.
    """
    transfer = _Transfer()
    manager = _Manager(
        transfer=transfer,
        download_dir=root / "downloads",
        url_infos={url: url_info} if url_info else {},
        dataset_name=name,
    )
    try:
        return Path(manager.download(url))
    except download_manager.NonMatchingChecksumError as error:
        reason = "what came is not the published file (its checksum differs)"
        raise UserError(f"cannot download {url}: {reason}; {ways_out}") from error
    except requests.RequestException as error:
        raise UserError(f"cannot download {url}: {_reason(error)}; {ways_out}") from error
    except OSError as error:
        file = url.rpartition("/")[2]
        raise UserError(f"cannot store {file} below {root}: {error.strerror or error}") from error
    finally:
        transfer.clean()


class _Manager(tfds.download.DownloadManager):
    """TFDS's manager with a transfer of our own."""

    def __init__(self, *, transfer: "_Transfer", **arguments: Any) -> None:
        self._transfer = transfer
        super().__init__(**arguments)

    @property
    def _downloader(self) -> "_Transfer":
        return self._transfer


class _Transfer:
    """Has the methods that TFDS's manager calls; works in the calling thread, so Ctrl-C ends it."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def tqdm(self) -> Any:
        """Shows nothing: Meter does."""
        return nullcontext()

    def increase_tqdm(self, url_info: Any) -> None:
        """Shows nothing: the file is there already."""

    def download(self, url: str, destination_path: Path, verify: bool = True) -> Any:
        """Returns a fulfilled promise of the file in `destination_path` and its checksum."""
        self._folder = Path(destination_path)
        # Before the long time limits of a transfer apply.
        check_reachable(url)
        path = self._folder / Path(urllib.parse.urlsplit(url).path).name
        stream_to_file(url, path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        # TFDS compares both with the published values.
        size = tfds.core.utils.Size(path.stat().st_size)
        url_info = checksums.UrlInfo(size=size, checksum=sha256, filename=path.name)
        return promise.Promise.resolve(
            downloader.DownloadResult(path=tfds.core.Path(path), url_info=url_info)
        )

    def clean(self) -> None:
        """Removes what a failed transfer left; a file that is good has been moved away."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def check_reachable(url: str) -> None:
    """Raises requests.RequestException unless the host offers the file within 10 s.

    A thread waits, because looking up a name cannot be given a time limit.
    """
    answer: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with _get(url, 0, _ANSWER_S):
                answer.put(None)
        except Exception as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answer.get(timeout=_ANSWER_S)
    except queue.Empty:
        raise requests.Timeout(f"no answer within {_ANSWER_S:.0f} s") from None
    if error:
        raise error


def stream_to_file(url: str, path: Path) -> None:
    """Writes the file at `url` to `path`, going on where a connection broke.

    Raises:
        requests.RequestException: Five attempts in a row brought nothing new.
    """
    best = attempts = 0
    with path.open("wb") as file:
        while True:
            try:
                with _get(url, file.tell(), _STALL_S) as response:
                    if response.status_code != requests.codes.partial_content:
                        file.seek(0)  # the host cannot continue: from the beginning
                        file.truncate()
                    start = file.tell()
                    total = start + int(response.headers.get("Content-Length", 0))
                    with Meter(f"downloading {path.name}", total, "MB", 1e6, start) as meter:
                        for block in response.iter_content(1 << 14):
                            file.write(block)
                            meter.advance(len(block))
                return
            except requests.RequestException:
                # A slow host may break off often: only attempts that bring nothing are counted.
                attempts = 1 if file.tell() > best else attempts + 1
                best = max(best, file.tell())
                if attempts >= _ATTEMPTS:
                    raise
                time.sleep(_PAUSE_S)


@contextmanager
def _get(url: str, start: int, timeout: float) -> Iterator[requests.Response]:
    headers = {"Accept-Encoding": "identity"}  # the file's own bytes, for the checksum
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        response.raise_for_status()
        yield response


def _reason(error: BaseException) -> str:
    """Returns the operating system's own words, which requests wraps several times."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, TimeoutError):
            return "the host does not answer"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    if isinstance(error, (requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        return "the connection breaks off"
    return " ".join(str(error).split())
