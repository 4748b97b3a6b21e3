"""On which address does the server listen, whom does it answer to, and how does it end?"""

import errno
import importlib.util
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any

from jaxcnn.errors import UserError

_LIBRARIES = ("starlette", "uvicorn")
_CONNECTIONS = 256


def check_installed() -> None:
    """Raises UserError if a library of the extra `serve` is missing."""
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"jaxcnn serve needs {' and '.join(missing)}: install "
            f"{'it' if len(missing) == 1 else 'them'} with pip install 'jaxcnn[serve]'"
        )


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Args:
        host: A name or an address of this machine.
        port: 0 for any that is free.

    Raises:
        UserError: If that is not possible.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError, ValueError) as error:
        raise UserError(
            f"--host={host} is no name or address of this machine ({_reason(error)}): use "
            "127.0.0.1, or 0.0.0.0 for all its addresses"
        ) from error
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # a port that was in use a moment ago can be taken
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_CONNECTIONS)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"--port={port} of {host} is in use: choose another one, or 0 for any that is free"
            ) from error
        raise UserError(
            f"--host={host} --port={port} cannot be listened on ({_reason(error)}): choose another "
            "port, from 1024 on, or 127.0.0.1"
        ) from error
    return listening


def is_loopback(listening: socket.socket) -> bool:
    """Tells whether only this machine reaches a socket."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def address(listening: socket.socket) -> str:
    """Returns where a browser on this machine finds a socket."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def ours(listening: socket.socket, host: str) -> Callable[[str], bool]:
    """Returns whether a host name, in lower case, means a socket that `listen(host)` has given.

    No other site can have an address in numbers for its name, nor localhost; the name that was
    asked for is known, and to those outside the machine's own. Any other name may be a stranger's
    that points here.
    """
    names = {"localhost", host.lower()}
    if not is_loopback(listening):
        own = socket.gethostname().lower()
        names |= {own, f"{own}.local"}

    def is_ours(name: str) -> bool:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in names and name != ""
        return True

    return is_ours


def serve(app: Any, listening: socket.socket) -> None:
    """Answers requests until a signal arrives, which is then raised anew."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="critical",  # the application itself tells of its mistakes
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run([listening])


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
