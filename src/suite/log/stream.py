"""The JetStream stream that holds the log: its required configuration, and its creation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import anyio

from suite.bus.jetstream import STREAM_NOT_FOUND, TRANSIENT, JetStream, NoAnswer, NotSent, Refused
from suite.bus.replicas import create_replicated
from suite.bus.stream_config import require
from suite.errors import ServerUnsuitable, Unavailable

DEDUPLICATION_SECONDS: Final = 120
"""How long the server remembers an event's id. Every retry must end well within this time."""

MINIMUM_SERVER: Final = (2, 12)
"""2.11 silently ignores ``allow_atomic`` and stores parts of rejected batches."""

_WANTED: Final[Mapping[str, Any]] = {
    "storage": "file",
    "retention": "limits",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "sealed": False,
    "no_ack": False,
    "allow_atomic": True,
    "allow_msg_ttl": True,
    "deny_delete": True,
    "deny_purge": True,
}
"""Required settings: with other values, events would get lost or could not be stored. Events are neither
deleted nor purged; single samples may expire."""

_ABSENT: Final[Mapping[str, Any]] = {
    "mirror": None,
    "sources": None,
    "subject_transform": None,
    "allow_msg_counter": False,
    "subject_delete_marker_ttl": 0,
    "persist_mode": "default",
}
"""Settings that a new stream does not have, and an existing one must not have. In this order they would bring
in messages of other streams (two settings), change subjects, replace events by counters, put delete markers
among the events, and acknowledge events before they are stored."""


def wanted_config(name: str, subject_filter: str) -> dict[str, Any]:
    """The configuration of a new stream. ``allow_direct`` is off: direct reads may miss the last write."""
    return {
        "name": name,
        "subjects": [subject_filter],
        "duplicate_window": DEDUPLICATION_SECONDS * 10**9,
        "allow_direct": False,
        "discard": "new",
        "max_consumers": -1,
        "max_msg_size": -1,
        **_WANTED,
    }


async def prepare_stream(
    jetstream: JetStream, subject_filter: str, *, create: bool, seconds: float, replicas: int = 1
) -> None:
    """Create the stream if it is missing and `create` is set, then check that its configuration fits.

    A new stream gets as many `replicas` as there are servers for. Retries for up to `seconds` while JetStream
    is not ready. An existing stream is not changed: placement, compression and the like are its operator's
    choice. Raises ServerUnsuitable if the stream is
    missing or does not fit (naming the fields), or Unavailable if nothing answers.
    """
    _check_version(jetstream.connection.server_version)
    reason = "JetStream does not answer"
    with anyio.move_on_after(seconds):
        while True:
            try:
                return await _prepare(jetstream, subject_filter, create=create, replicas=replicas)
            except Refused as refused:
                if refused.code in TRANSIENT:
                    reason = str(refused)
                    await anyio.sleep(0.1)
                    continue
                raise ServerUnsuitable(
                    f"NATS refuses the stream {jetstream.stream}: {refused}; its account needs JetStream"
                    " with file storage, and no other stream may take the same subjects"
                ) from refused
            except (NotSent, NoAnswer) as error:
                reason = str(error)
            await anyio.sleep(0.1)
    raise Unavailable(f"the log cannot be opened: {reason}; check that the server has JetStream enabled")


async def _prepare(jetstream: JetStream, subject_filter: str, *, create: bool, replicas: int) -> None:
    name = jetstream.stream
    try:
        config = (await jetstream.info()).config
    except Refused as refused:
        if refused.code != STREAM_NOT_FOUND:
            raise
        if not create:
            raise ServerUnsuitable(f"there is no stream {name}: start a node first") from refused
        wanted = wanted_config(name, subject_filter)
        config = (await create_replicated(jetstream, wanted, replicas=replicas)).config
    require(
        config,
        {"subjects": [subject_filter], **_WANTED, **_ABSENT},
        at_least={
            "duplicate_window": DEDUPLICATION_SECONDS * 10**9,
            "max_msg_size": jetstream.connection.max_payload,
        },
        purpose="hold the log",
    )


def _check_version(version: str) -> None:
    numbers = version.split("-")[0].split(".")
    try:
        found = (int(numbers[0]), int(numbers[1]))
    except (ValueError, IndexError):
        return  # a build without a version number: the server's answer about the stream decides
    if found < MINIMUM_SERVER:
        raise ServerUnsuitable(f"nats-server {version} cannot hold the log: use 2.12 or newer")
