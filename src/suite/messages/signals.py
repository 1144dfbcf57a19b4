"""Signals: messages that a requester gets before the final reply. They are never in the log.

A message with ``kind`` is a signal and one with ``status`` is the final reply; after the final reply of a
stream comes one empty message (the end of NATS' request-many convention, ADR-47).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from suite.messages.logprobs import TokenLogprobs


class Signal(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """The base of all signals."""


class Accepted(Signal, frozen=True, kw_only=True, tag="accepted"):
    """The generation was accepted, and can be cancelled by this id from now on."""

    generation_id: str
    node: str


class Waiting(Signal, frozen=True, kw_only=True, tag="waiting"):
    """The model does not fit into memory now, and waits for its turn; sent whenever its place changes."""

    model_id: str
    place: int
    """1: it is the next model to be loaded."""
    waits_for: tuple[str, ...] = ()
    """The models that have to leave for it first."""


class Progress(Signal, frozen=True, kw_only=True, tag="progress"):
    """The progress of a load, 0 to 1."""

    model_id: str
    fraction: float


class Folded(Signal, frozen=True, kw_only=True, tag="folded"):
    """The progress of rebuilding a read model, 0 to 1."""

    name: str
    fraction: float


class Copying(Signal, frozen=True, kw_only=True, tag="copying"):
    """How much of a model a node has of which it gets a copy."""

    node: str
    bytes: int
    total_bytes: int


class Benchmarking(Signal, frozen=True, kw_only=True, tag="benchmarking"):
    """How far a benchmark is."""

    benchmark_id: str
    node: str
    """The node whose job it is."""
    done: int
    """How many of its rounds and questions are done."""
    total: int
    waits: bool = False
    """Whether it waits until nobody else uses the node."""


class Replaying(Signal, frozen=True, kw_only=True, tag="replaying"):
    """How far a replay is."""

    phase: Literal["reading", "replaying"]
    """First the log is read, then what is in it is replayed under each rule."""
    fraction: float
    """How much of the phase is done, 0 to 1."""


class Chunk(Signal, frozen=True, kw_only=True, tag="chunk"):
    """The next piece of the text or the reasoning; ``index`` counts from 0 without gaps, over all choices."""

    index: int
    choice: int = 0
    """The answer that it belongs to, where several were asked for."""
    text: str
    reasoning: str | None = None
    """The next piece of what the model thinks before its answer. ``text`` has none of it."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """Those of the tokens since the previous chunk, if requested. The text of the last may still follow."""


class Draining(Signal, frozen=True, kw_only=True, tag="draining"):
    """What a node that is being drained still does; sent whenever it changes."""

    node: str
    generations: int
    """How many run or wait there."""
    loading: str | None = None
    """The model that another node is loading in its place."""


class Heartbeat(Signal, frozen=True, kw_only=True, tag="heartbeat"):
    """The work goes on without news; sent every second while nothing else is sent."""


AnySignal: TypeAlias = (
    Accepted | Waiting | Progress | Folded | Draining | Copying | Benchmarking | Replaying | Chunk | Heartbeat
)

HEARTBEAT_SECONDS = 1.0
