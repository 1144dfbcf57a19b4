"""A TCP socket that listens, opened before anything else is started, so that a busy port shows at once."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from suite.errors import InvalidConfiguration, PortTaken

BACKLOG: Final = 1024
"""How many connections may wait to be accepted."""


@contextmanager
def listening(host: str, port: int, *, purpose: str = "HTTP") -> Iterator[socket.socket]:
    """Listen on an address, port 0 for a free one, until the block ends. `purpose` stands in the error.

    Raises PortTaken, or InvalidConfiguration for an address that this machine does not have.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((host, port))
            opened.listen(BACKLOG)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortTaken(
                    f"port {port} of {host} is not free for {purpose} ({os.strerror(error.errno)}): "
                    "choose another"
                ) from None
            raise InvalidConfiguration(
                f"{host} is no address of this machine ({error}): choose another"
            ) from None
        yield opened


def url_of(opened: socket.socket, *, secure: bool = False) -> str:
    """The URL of what listens on a socket, with TLS if it is ``secure``."""
    host, port = opened.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
