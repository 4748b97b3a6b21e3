"""Which requests are answered, by whom, and what is refused?"""

import asyncio
import contextlib
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from jaxcnn.data import image_files
from jaxcnn.serve.gallery import Gallery
from jaxcnn.serve.guard import Guard, error
from jaxcnn.serve.networks import ServedNetwork, answers

MAX_BYTES = 10 * 2**20
"""Of an image file that is sent."""
PLACES = 16
"""Images that are received, wait or are classified at the same time."""
SECONDS = 60
"""Within which an image has to be received."""

# A client that is still sending may not read a refusal, so what is sent is read, to some limit.
_MOST_READ = 10 * MAX_BYTES
_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def create_app(
    networks: Sequence[ServedNetwork],
    galleries: Sequence[Gallery | None],
    is_ours: Callable[[str], bool],
    places: int = PLACES,
) -> ASGIApp:
    """Returns the application: the page, and the requests that it makes.

    Args:
        networks: What classifies.
        galleries: Of each network; None where there are no data to it.
        is_ours: As for `Guard`.
        places: See `PLACES`.
    """
    service = _Service(networks, galleries, places)
    routes = [
        *(Route(path, _file(*file), methods=["GET"]) for path, file in _PAGE.items()),
        Route("/api/networks", service.networks, methods=["GET"]),
        Route("/api/predict", service.predict, methods=["POST"]),
        Route("/api/gallery/{number:int}", service.gallery, methods=["GET", "POST"]),
        Route("/api/gallery/{number:int}/{label:int}/{predicted:int}", service.cell),
    ]
    app = Starlette(
        routes=routes,
        lifespan=service.lifespan,
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )
    return Guard(app, is_ours)


class _Service:
    """The requests that need the networks.

    One thread decodes and classifies, so that requests are answered in order, and no number of them
    takes more memory than one. What waits for it is counted by the places that are left; these
    change in the thread of the event loop alone.
    """

    def __init__(
        self, networks: Sequence[ServedNetwork], galleries: Sequence[Gallery | None], places: int
    ) -> None:
        self._networks, self._galleries, self._places = networks, galleries, places
        self._worker = ThreadPoolExecutor(1, "networks")

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Is entered while the server runs."""
        with image_files.decoding():
            yield
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def networks(self, request: Request) -> Response:
        """Returns what there is."""
        return JSONResponse(
            {
                "max_bytes": MAX_BYTES,
                "networks": [
                    {
                        "name": network.name,
                        "title": network.title,
                        "class_names": network.class_names,
                        "image_shape": network.image_shape,
                        "has_gallery": gallery is not None,
                    }
                    for network, gallery in zip(self._networks, self._galleries, strict=True)
                ],
            }
        )

    async def predict(self, request: Request) -> Response:
        """Returns every network's answer to the image file that is the request's body."""
        try:
            if request.headers.get("content-type", "").startswith("multipart/"):
                await _receive(request, 0)
                return error(415, "a form: send the file itself, such as curl --data-binary @FILE")
            if not self._places:
                await _receive(request, 0)
                return error(503, "too many images at once: send it again", Retry_After="1")
            self._places -= 1
            try:
                return await self._answer(request)
            finally:
                self._places += 1
        except TimeoutError:
            return error(408, f"not received within {SECONDS} s: send it again")
        except image_files.UnknownFormat as refusal:
            return error(415, str(refusal))
        except image_files.Refused as refusal:
            return error(400, str(refusal))

    async def _answer(self, request: Request) -> Response:
        content = await _receive(request, MAX_BYTES)
        if content is None:
            most = MAX_BYTES // 2**20
            return error(413, f"larger than {most} MiB, which is the most: make it smaller")
        with_pictures = request.query_params.get("pictures") == "1"
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._worker, answers, self._networks, content, with_pictures)
        return JSONResponse({"networks": await work})

    async def gallery(self, request: Request) -> Response:
        """Returns how far a gallery is, or what it has; POST has it begin."""
        gallery = self._gallery(request)
        if request.method == "POST":
            gallery.start()
        loop = asyncio.get_running_loop()
        return JSONResponse(await loop.run_in_executor(None, gallery.state))

    async def cell(self, request: Request) -> Response:
        """Returns the images behind a cell of the confusion matrix."""
        label, predicted = request.path_params["label"], request.path_params["predicted"]
        found = self._gallery(request).cell(label, predicted)
        if found is None:
            raise HTTPException(404, "there is no such cell, or not yet")
        return JSONResponse(found)

    def _gallery(self, request: Request) -> Gallery:
        number = request.path_params["number"]
        if number >= len(self._galleries):
            raise HTTPException(404, f"there are {len(self._galleries)} networks, from 0 on")
        gallery = self._galleries[number]
        if gallery is None:
            raise HTTPException(404, "weights come without data: the gallery needs a run")
        return gallery


async def _receive(request: Request, most: int) -> bytes | None:
    """Returns the body of a request, or None if it is longer than `most` bytes.

    Raises:
        TimeoutError: If it does not come.
    """
    content = bytearray()
    size = 0
    async with asyncio.timeout(SECONDS):
        async for part in request.stream():
            size += len(part)
            if size <= most:
                content += part
            else:
                content.clear()
            if size > _MOST_READ:
                break
    return bytes(content) if size <= most else None


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    """Returns what answers with a file of the page, which is read now."""
    content = (resources.files("jaxcnn.serve") / "page" / name).read_bytes()

    def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)
    response = error(refusal.status_code, refusal.detail)
    response.headers.update(refusal.headers or {})
    return response


def _failed(request: Request, failure: Exception) -> Response:
    """Answers after a mistake of ours, which the terminal gets; a client that left is none."""
    if not isinstance(failure, ClientDisconnect):
        traceback.print_exception(failure, file=sys.stderr)
    return error(500, "a mistake of the program: the terminal says more")
