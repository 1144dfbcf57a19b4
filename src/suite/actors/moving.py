"""Conversations that come to this model's process from other nodes, and go to them (ADR 61).

A conversation is asked for only by the process that is to go on with it, which waits no longer than it would
take to read the prompt. Whatever fails, the prompt is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import anyio
import msgspec

from suite.actors.state_key import content_of, state_key
from suite.bus.connection import Connection
from suite.conversation_store import ConversationStore
from suite.domain.moving import LATENCY_SECONDS, patience_seconds
from suite.engine.adapters import NO_ADAPTERS, AdapterSet
from suite.engine.engine import Engine
from suite.engine.snapshots.file import InvalidSnapshotFile, Saved
from suite.engine.thread import EngineThread
from suite.errors import SuiteError
from suite.identity import Clock
from suite.messages.actor import ActorSpec, ConversationStored, GetConversation
from suite.messages.subjects import Subjects

T = TypeVar("T")

logger = logging.getLogger("suite.actor")

NEEDED_SECONDS: Final = 10.0
"""How long a conversation is waited for that cannot be read again, as only its new turn was sent."""

_encode = msgspec.json.Encoder().encode


class Moving:
    """The conversations of one model on their way between nodes."""

    def __init__(
        self,
        spec: ActorSpec,
        store: ConversationStore,
        *,
        connection: Connection,
        engine: EngineThread,
        clock: Clock,
    ) -> None:
        self._spec = spec
        self._key = state_key(spec)
        self._store = store
        self._connection = connection
        self._subjects = Subjects(spec.subject_root)
        self._engine = engine
        self._clock = clock
        self._exporting = anyio.Lock()

    # --- to other nodes -------------------------------------------------------------------------------------

    async def export(self, asked: GetConversation) -> ConversationStored:
        """Put the state of a conversation into the object store, if it is there sooner than it is read.

        Raises StoreFull and Unavailable.
        """
        if asked.key != self._key:  # it cannot be restored there, and stays what it is here
            return ConversationStored()
        async with self._exporting:  # one state is in memory twice at a time
            exported = await self._run(lambda engine: engine.export(asked.conversation_id))
            if exported is None:
                return ConversationStored()
            reading = exported.reading_seconds if asked.reading_seconds is None else asked.reading_seconds
            return await self._store.give(asked, exported.saved, reading_seconds=reading)

    # --- from other nodes -----------------------------------------------------------------------------------

    async def bring(
        self,
        node: str,
        conversation_id: str,
        prompt: list[int],
        adapters: AdapterSet = NO_ADAPTERS,
        *,
        is_needed: bool,
    ) -> None:
        """Take over a conversation from the node that has had it, if it comes.

        `adapters`: what the prompt is read with. `is_needed`: the prompt is only the new turn, and cannot be
        read without what was before.
        """
        reading = await self._run(lambda engine: engine.reading_seconds(prompt, conversation_id, adapters))
        patience = NEEDED_SECONDS if is_needed else patience_seconds(len(prompt), reading_seconds=reading)
        if patience <= LATENCY_SECONDS:
            return
        asked = GetConversation(
            model_id=self._spec.model_id,
            content=content_of(self._spec),
            key=self._key,
            conversation_id=conversation_id,
            reading_seconds=reading,
            is_needed=is_needed,
        )
        with anyio.move_on_after(patience) as waiting:
            try:
                await self._take_over(node, asked, patience)
            except (SuiteError, InvalidSnapshotFile, msgspec.MsgspecError) as error:
                logger.warning("a conversation does not come from %s, and is read again: %s", node, error)
            except Exception:
                logger.exception("a conversation does not come from %s, and is read again", node)
        if waiting.cancelled_caught:
            logger.warning("a conversation does not come from %s in time, and is read again", node)

    async def _take_over(self, node: str, asked: GetConversation, seconds: float) -> None:
        began = self._clock()
        saved = await self._get(node, asked, seconds)
        if saved is None:
            return
        await self._run(lambda engine: engine.adopt(saved))
        logger.info(
            "%d tokens of a conversation came from %s: %d bytes in %.0f ms",
            saved.token_count,
            node,
            saved.size,
            (self._clock() - began) * 1000,
        )

    async def _get(self, node: str, asked: GetConversation, seconds: float) -> Saved | None:
        subject = self._subjects.node(node, "conversation")
        answer = await self._connection.request(subject, _encode(asked), timeout=seconds)
        stored = msgspec.json.decode(answer.data, type=ConversationStored)
        if stored.code:
            raise SuiteError(stored.message)
        if not stored.name:
            return None
        saved = await self._store.take(stored.name, self._key)
        if saved is not None and saved.conversation_id != asked.conversation_id:
            raise InvalidSnapshotFile("it is of another conversation")
        return saved

    async def _run(self, work: Callable[[Engine], T]) -> T:
        return await asyncio.wrap_future(self._engine.run_between_steps(partial(_with_engine, work)))


def _with_engine(work: Callable[[Engine], T], _: object, engine: Engine) -> T:
    return work(engine)
