"""A replay of the log, as the page has it: how far it is, and then what came of it."""

from __future__ import annotations

from typing import Final

import msgspec

from suite.client import Client
from suite.errors import SuiteError
from suite.gateway.dashboard.told import Trouble
from suite.gateway.encoding import encode
from suite.gateway.generations import Put
from suite.gateway.sse import EVENT_STREAM, comment, named_event
from suite.messages.actions.replay import ReplayHistoryRequest
from suite.messages.signals import Replaying

read_replay: Final = msgspec.json.Decoder(ReplayHistoryRequest).decode


async def replay(client: Client, asked: ReplayHistoryRequest, put: Put) -> None:
    """Have the service replay its log, and put what it tells. Raises what `Client.replay_history` raises."""

    def hear(replaying: Replaying) -> None:
        put(named_event("progress", encode(replaying)))

    reply = await client.replay_history(
        policies=asked.policies,
        memory_gb=asked.memory_gb,
        with_bets=asked.with_bets,
        of_node=asked.of_node,
        requests=asked.requests,
        on_progress=hear,
    )
    put(named_event("end", encode(reply)))


class ReplayForm:
    """What is told beside that."""

    media_type = EVENT_STREAM

    def error(self, error: SuiteError) -> bytes:
        """Why it ends early."""
        return named_event("error", encode(Trouble.of(error)))

    def keep_alive(self, told: str) -> bytes:
        """A sign of life."""
        return comment(told or "replaying")
