"""The log as a client reads it: over a connection of its own where reading is another user's right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

from suite.bus.connection import Connection, Rediscover
from suite.bus.jetstream import STREAM_NOT_FOUND, JetStream, NoAnswer, NotSent, Refused
from suite.errors import AccessDenied, ServerUnsuitable, Unavailable
from suite.identity import NewId
from suite.messages.subjects import Subjects

if TYPE_CHECKING:
    from suite.log.reader import Reader


class OpenedLog:
    """Opens the log when it is first asked for, and keeps it open as long as the client."""

    def __init__(
        self,
        connection: Connection,
        tasks: TaskGroup,
        rediscover: Rediscover | None,
        subjects: Subjects,
        new_id: NewId,
    ) -> None:
        self._connection = connection
        self._tasks = tasks
        self._rediscover = rediscover
        self._subjects = subjects
        self._new_id = new_id
        self._reader: Reader | None = None
        self._lock = anyio.Lock()

    @property
    def is_mirror(self) -> bool:
        """Whether what is read is a copy of the log, which may be some milliseconds behind it."""
        return self._rediscover is not None

    async def reader(self, *, follow: bool = False) -> Reader:
        """The log, or its mirror.

        While the server of a client that was connected is away, this waits, for ever if it is to ``follow``.
        Raises Unavailable, AccessDenied, ServerUnsuitable.
        """
        from suite.log.reader import Patience

        patience = Patience(self._connection, follow=follow)
        while True:
            try:
                async with self._lock:
                    if self._reader is None:
                        self._reader = await self._open()
                    return self._reader
            except AccessDenied:
                raise
            except Unavailable as error:
                patience.excuse(error)
            await patience.pause()

    async def _open(self) -> Reader:
        from suite.log.reader import Reader

        if self._rediscover is not None:
            connection = await self._tasks.start(_hold, self._rediscover)
            mirror = JetStream(connection, self._subjects.stream, new_id=self._new_id)
            return Reader(mirror, new_id=self._new_id, is_mirror=True)
        jetstream = JetStream(self._connection, self._subjects.stream, new_id=self._new_id)
        try:
            await jetstream.info()
        except Refused as refused:
            if refused.code == STREAM_NOT_FOUND:
                raise ServerUnsuitable(
                    f"there is no stream {jetstream.stream}: start a node first"
                ) from refused
        except AccessDenied:
            raise AccessDenied(
                "this user may not read the log: name a reader, such as the role consumer, with "
                "SUITE_NATS_READER_USER and SUITE_NATS_READER_PASSWORD"
            ) from None
        except (NotSent, NoAnswer):
            pass  # the reader tries again for a while, and says so
        return Reader(jetstream, new_id=self._new_id)


async def _hold(rediscover: Rediscover, *, task_status: TaskStatus[Connection]) -> None:
    access = await anyio.to_thread.run_sync(rediscover)
    # The client's own connection tells of outages, and one line for each is enough.
    async with Connection.open(
        access, name="suite-reader", rediscover=rediscover, tell_outages=False
    ) as connection:
        task_status.started(connection)
        await anyio.sleep_forever()
