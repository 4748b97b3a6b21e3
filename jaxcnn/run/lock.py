"""One process per folder: a lock that the system itself releases when its holder dies."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxcnn.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: no lock there
    fcntl = None  # type: ignore[assignment]  # the module's absence is checked below

NAME = ".lock"
# Error numbers of file systems without locks.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`, an existing folder, while entered.

    The lock is the kernel's `flock` on a file of the folder, so it cannot become stale: the kernel
    releases it however the holder ends. The file names the holder, but its existence alone means
    nothing. Continues without a lock where the system or the file system has none.

    Raises:
        UserError: If another process holds it, naming that process.
        OSError: If the file cannot be created.
    """
    with open(folder / NAME, "a+", encoding="utf-8", errors="replace") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{folder} is in use by {holder}: wait until that has ended, stop it, or choose "
                "another folder with --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
