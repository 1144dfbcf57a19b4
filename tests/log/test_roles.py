"""Who may do what with the log, on an embedded server with its four users."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.errors import AccessDenied
from suite.identity import new_id, utc_now
from suite.log import Log
from support.journal import SUBJECTS, generated, open_log


async def test_operators_and_consumers_read_and_only_the_suite_appends(tmp_path: Path) -> None:
    async with EmbeddedServer.start(tmp_path / "nats") as server, open_log(server.access) as (_, log):
        await log.append(generated("a"), generated("b"))
        for access in (server.operator, server.consumer):
            async with (
                Connection.open(access, name="reader") as connection,
                Log.open(
                    connection, SUBJECTS, source="/cli", new_id=new_id, now=utc_now, create=False
                ) as theirs,
            ):
                assert [event.seq async for event in theirs.read()] == [1, 2]
                newest = await theirs.last(SUBJECTS.events)
                assert newest is not None
                assert newest.seq == 2
                with pytest.raises(AccessDenied):
                    await theirs.append(generated("forged"))
        assert [event.seq async for event in log.read()] == [1, 2]
