"""Gives other nodes the conversations that go on there, from a model's process or its files (ADR 61)."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from suite.bus.bucket import Bucket
from suite.bus.connection import Connection, Message
from suite.config import Settings
from suite.domain.moving import StoreSpeed, is_worth_moving, patience_seconds
from suite.engine.snapshots.file import InvalidSnapshotFile, Saved, to_bytes
from suite.engine.snapshots.folder import content_folder, take_conversation
from suite.errors import SuiteError
from suite.identity import NewId
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
        bucket: Bucket,
        *,
        tasks: anyio.abc.TaskGroup,
        new_id: NewId,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._subjects = subjects
        self._supervisor = supervisor
        self._bucket = bucket
        self._tasks = tasks
        self._new_id = new_id
        self._speed = StoreSpeed()
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
        if instance is None or instance.phase != "loaded":
            return _encode(await self._from_files(asked))
        subject = self._subjects.actor(self._settings.node, instance.instance_id, "export")
        return (await self._connection.request(subject, data, timeout=EXPORT_SECONDS)).data

    async def _from_files(self, asked: GetConversation) -> ConversationStored:
        folder = content_folder(snapshots_of(self._settings, asked.model_id), asked.content)
        async with self._reading:  # one state is in memory at a time
            take = partial(take_conversation, folder, asked.key, asked.conversation_id)
            saved = await anyio.to_thread.run_sync(take)
            if saved is None or not self._is_worth(asked, saved):
                return ConversationStored()
            data = await anyio.to_thread.run_sync(to_bytes, asked.key, saved)
            name = self._new_id()
            async with self._bucket.opened() as store:
                await store.put(name, data)
            return ConversationStored(name=name)

    def _is_worth(self, asked: GetConversation, saved: Saved) -> bool:
        return asked.is_needed or is_worth_moving(
            saved.size,
            reading_seconds=patience_seconds(saved.token_count, reading_seconds=asked.reading_seconds),
            bytes_per_second=self._speed.bytes_per_second,
        )
