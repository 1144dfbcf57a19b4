"""Gives other nodes the conversations that go on there, from a model's process or its files (ADR 61)."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from suite.bus.connection import Connection, Message
from suite.config import Settings
from suite.conversation_store import ConversationStore
from suite.engine.snapshots.file import InvalidSnapshotFile
from suite.engine.snapshots.folder import content_folder, take_conversation
from suite.errors import SuiteError
from suite.messages.actor import ConversationStored, GetConversation
from suite.messages.subjects import Subjects
from suite.node.snapshots import snapshots_of
from suite.node.supervisor import Supervisor

logger = logging.getLogger("suite.transfers")

EXPORT_SECONDS: Final = 10.0
"""How long a model's process may take. Who asks waits less, as a rule."""

_encode = msgspec.json.Encoder().encode
_asked = msgspec.json.Decoder(GetConversation).decode


class Conversations:
    """The conversations of this node that other nodes ask for."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        subjects: Subjects,
        supervisor: Supervisor,
        store: ConversationStore,
        *,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._subjects = subjects
        self._supervisor = supervisor
        self._store = store
        self._tasks = tasks
        self._reading = anyio.Lock()

    async def listen(self) -> None:
        """Answer other nodes."""
        subject = self._subjects.node(self._settings.node, "conversation")
        await self._connection.listen(subject, self._receive)

    async def _receive(self, message: Message) -> None:
        self._tasks.start_soon(self._answer, message)

    async def _answer(self, message: Message) -> None:
        try:
            answer = await self._given(message.data)
        except (SuiteError, InvalidSnapshotFile, msgspec.MsgspecError, OSError) as error:
            logger.warning("a conversation cannot go to another node: %s", error)
            answer = _encode(ConversationStored(code=SuiteError.code, message=str(error)))
        except Exception:
            logger.exception("a conversation cannot go to another node")
            answer = _encode(ConversationStored(code=SuiteError.code, message="its log has the cause"))
        try:
            await self._connection.publish(message.reply, answer)
        except SuiteError as error:
            logger.debug("another node is not told of its conversation: %s", error)

    async def _given(self, data: bytes) -> bytes:
        asked = _asked(data)
        instance = self._supervisor.instances.get(asked.model_id)
        if instance is None:
            return _encode(await self._from_files(asked))
        if instance.phase != "loaded":  # its process may be about to read or to write the files
            return _encode(ConversationStored())
        subject = self._subjects.actor(self._settings.node, instance.instance_id, "export")
        return (await self._connection.request(subject, data, timeout=EXPORT_SECONDS)).data

    async def _from_files(self, asked: GetConversation) -> ConversationStored:
        folder = content_folder(snapshots_of(self._settings, asked.model_id), asked.content)
        async with self._reading:  # one state is in memory at a time
            take = partial(take_conversation, folder, asked.key, asked.conversation_id)
            saved = await anyio.to_thread.run_sync(take)
            if saved is None:
                return ConversationStored()
            return await self._store.give(asked, saved, reading_seconds=asked.reading_seconds)
