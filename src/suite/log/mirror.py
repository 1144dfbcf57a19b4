"""Maintains the mirror of the log in the readers' account: creates it, and rebuilds it when necessary.

The mirror holds nothing that is not in the log, so it may be lost at any time. The server itself copies new
events into it, also after a restart. But the server does not notice that somebody has deleted the mirror, or
that the log was replaced by another one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import anyio
from anyio.abc import TaskStatus

from suite.bus.accounts import mirror_config
from suite.bus.connection import Connection
from suite.bus.jetstream import STREAM_NOT_FOUND, JetStream, NoAnswer, NotSent, Refused, StreamInfo
from suite.bus.replicas import create_replicated, raise_replicas
from suite.errors import SuiteError
from suite.identity import NewId
from suite.messages.actor import NatsAccess
from suite.messages.subjects import Subjects
from suite.ticks import tick

logger = logging.getLogger("suite.log")

LOOK_SECONDS: Final = 5.0
"""How long the mirror may be missing, or of another log, once it was kept."""
RETRY_SECONDS: Final = 1.0
"""The pause after a look that failed."""
LOG_CREATED: Final = "suite.log.created"
"""The key in the mirror's metadata for the creation time of the log that it copies."""


async def keep_mirror(
    connection: Connection,
    access: NatsAccess,
    subjects: Subjects,
    *,
    new_id: NewId,
    replicas: int = 1,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Maintain the mirror of the log on ``connection`` until cancelled.

    ``access`` is access to the readers' account, ``replicas`` how many servers are to have the mirror. The
    task counts as started after the first try, even a failed one: no problem of the readers stops a node.
    """
    log = JetStream(connection, subjects.stream, new_id=new_id)
    tell = _Told(task_status)
    while True:
        try:
            async with Connection.open(access, name="suite-mirror") as readers:
                copy = JetStream(readers, subjects.stream, new_id=new_id)
                mirror = Mirror(log, copy, subjects, replicas=replicas)
                while True:
                    tell(await mirror.problem())
                    await tick(LOOK_SECONDS)
        except SuiteError as error:
            tell(error.message)
        await anyio.sleep(RETRY_SECONDS)


class Mirror:
    """The readers' copy of one log."""

    def __init__(self, log: JetStream, copy: JetStream, subjects: Subjects, *, replicas: int = 1) -> None:
        self._log = log
        self._copy = copy
        self._replicas = replicas
        self._subjects = subjects
        self._was_there = False

    async def problem(self) -> str:
        """Create or repair the mirror. Returns why that failed, or an empty string."""
        try:
            await self._set_right()
        except (Refused, NotSent, NoAnswer, SuiteError) as error:
            return str(error)
        return ""

    async def _set_right(self) -> None:
        found = await self._found()
        log = await self._log.info()  # asked after the mirror, so that the mirror cannot seem to be ahead
        config = mirror_config(self._subjects, replicated=self._replicas > 1)
        config |= {"metadata": {LOG_CREATED: log.identity}}
        if found is None:
            if self._was_there:
                logger.warning("somebody has removed the readers' mirror: it is made anew")
            await self._create(config)
        elif found.config.get("metadata", {}).get(LOG_CREATED) != log.identity or (
            found.state.last_seq > log.state.last_seq
        ):
            logger.warning("the log is another one than the readers' mirror has: the mirror is made anew")
            await self._create_anew(config)
        elif self._replicas > 1 and found.config.get("persist_mode") == "async":
            logger.warning("the readers' mirror is made anew: as it is, it cannot have replicas")
            await self._create_anew(config)
        elif _lacks(found.config, config):
            await self._copy.update(found.config | config)
        elif int(found.config.get("num_replicas", 1)) < self._replicas:
            await raise_replicas(self._copy, found, replicas=self._replicas)
        self._was_there = True

    async def _create(self, config: Mapping[str, Any]) -> None:
        await create_replicated(self._copy, config, replicas=self._replicas)

    async def _create_anew(self, config: Mapping[str, Any]) -> None:
        await self._copy.delete()
        await self._create(config)

    async def _found(self) -> StreamInfo | None:
        try:
            return await self._copy.info()
        except Refused as refused:
            if refused.code == STREAM_NOT_FOUND:
                return None
            raise


def _lacks(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a wanted value is missing or different. Servers add to metadata, and omit what is off."""
    return any(
        _lacks(config.get(key) or {}, value) if isinstance(value, dict) else config.get(key) != value
        for key, value in wanted.items()
    )


class _Told:
    """Logs each problem once, and reports the task as started after the first try."""

    def __init__(self, task_status: TaskStatus[None]) -> None:
        self._task_status: TaskStatus[None] | None = task_status
        self._problem = ""

    def __call__(self, problem: str) -> None:
        if problem and problem != self._problem:
            logger.warning("the mirror that readers of the log use cannot be kept: %s", problem)
        self._problem = problem
        if self._task_status is not None:
            self._task_status.started()
            self._task_status = None
