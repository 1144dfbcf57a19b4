"""What is sent to a requester's reply subject before the final reply, and never into the log.

A message with ``kind`` is a signal and one with ``status`` is the final reply; after the final reply of a
stream comes one empty message (the end of NATS' request-many convention, ADR-47).
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from suite.messages.logprobs import TokenLogprobs


class Signal(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What every signal is."""


class Accepted(Signal, frozen=True, kw_only=True, tag="accepted"):
    """The generation is known: from now on it can be cancelled by this id."""

    generation_id: str
    node: str


class Progress(Signal, frozen=True, kw_only=True, tag="progress"):
    """How far the load is, 0 to 1."""

    model_id: str
    fraction: float


class Folded(Signal, frozen=True, kw_only=True, tag="folded"):
    """How far the rebuild of a read model is, 0 to 1."""

    name: str
    fraction: float


class Chunk(Signal, frozen=True, kw_only=True, tag="chunk"):
    """The next piece of the text; ``index`` counts from 0 without a gap."""

    index: int
    text: str
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """Of the tokens since the chunk before, if they were asked for; the text of the last may still follow."""


class Heartbeat(Signal, frozen=True, kw_only=True, tag="heartbeat"):
    """Nothing new, but the work goes on: sent each second while nothing else is."""


AnySignal: TypeAlias = Accepted | Progress | Folded | Chunk | Heartbeat

HEARTBEAT_SECONDS = 1.0
