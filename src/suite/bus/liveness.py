"""Whether a connection to NATS works: for who starts a process again that hangs."""

from __future__ import annotations

from typing import Final

from suite.bus.connection import Connection
from suite.errors import RequestTimeout, Unavailable

ANSWER_SECONDS: Final = 3.0


async def answers(connection: Connection, *, outages_count: bool) -> bool:
    """Whether the server answers on this connection within `ANSWER_SECONDS`.

    An outage that the connection knows of, and ends by itself, counts only with ``outages_count``: where the
    server is this process's own child, so that starting both again may help.
    """
    try:
        await connection.flush(ANSWER_SECONDS)
    except RequestTimeout:
        return False
    except Unavailable:
        return not outages_count
    return True
