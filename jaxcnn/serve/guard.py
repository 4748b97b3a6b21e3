"""Which requests are refused before anybody looks at them, and what every response forbids?"""

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # The page's own files, and pictures that it makes itself or that JSON brings; nothing else.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Guard:
    """An application that lets through only what this server's own page or a program sends.

    A page of the internet can make a browser send requests to this machine. If it has its own name
    resolve to this machine (DNS rebinding), the header Host still has that name; otherwise Origin
    tells where it comes from. No response allows another origin to read it (CORS).
    """

    def __init__(self, app: ASGIApp, is_ours: Callable[[str], bool]) -> None:
        """Guards `app`.

        Args:
            app: The application.
            is_ours: Whether a host name, without port and in lower case, means this server.
        """
        self._app, self._is_ours = app, is_ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, in place of the application or by it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (self._refusal(Headers(scope=scope)) or self._app)(scope, receive, with_headers)

    def _refusal(self, headers: Headers) -> ASGIApp | None:
        """Returns what answers in place of the application, or None."""
        host = headers.get("host", "")
        if not self._is_ours(host_name(host)):
            return error(
                421, f"the server is not called {host[:200]!r}: use the address that it has printed"
            )
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return error(403, f"{origin[:200]!r} is another page: requests come from this one")
        return None


def host_name(host: str) -> str:
    """Returns the name in a header Host without its port, in lower case; "" if there is none."""
    if set(host) & set("/@?#\\"):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def error(status: int, message: str, **headers: str) -> JSONResponse:
    """Returns a response with one line on what is wrong; `_` in headers' names stands for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": message}, status, named)
