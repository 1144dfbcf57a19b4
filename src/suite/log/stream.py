"""The stream that is the log: what its configuration has to be, and how it comes to be so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import anyio

from suite.bus.jetstream import STREAM_NOT_FOUND, TRANSIENT, JetStream, NoAnswer, NotSent, Refused
from suite.errors import ServerUnsuitable, Unavailable

DEDUPLICATION_SECONDS: Final = 120
"""For how long the server knows an event's id again; every retry has to end well within it."""

MINIMUM_SERVER: Final = (2, 12)
"""2.11 ignores ``allow_atomic`` in silence and stores parts of rejected batches."""

_WANTED: Final[Mapping[str, Any]] = {
    "allow_atomic": True,
    "allow_msg_ttl": True,
    "deny_delete": True,
    "deny_purge": True,
    "no_ack": False,
}
"""What an update can set right. Facts are neither deleted nor purged; single samples may expire."""

_REQUIRED: Final[Mapping[str, Any]] = {
    "storage": "file",
    "retention": "limits",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "sealed": False,
}
"""What somebody must have chosen, or can no longer be changed: with anything else facts would get lost."""


def wanted_config(name: str, subject_filter: str) -> dict[str, Any]:
    """The configuration of a new stream. ``allow_direct`` stays off: direct reads may miss the last write."""
    return {
        "name": name,
        "subjects": [subject_filter],
        "duplicate_window": DEDUPLICATION_SECONDS * 10**9,
        "allow_direct": False,
        "discard": "new",
        "num_replicas": 1,
        "max_consumers": -1,
        "max_msg_size": -1,
        **_REQUIRED,
        **_WANTED,
    }


async def prepare_stream(jetstream: JetStream, subject_filter: str, *, create: bool, seconds: float) -> None:
    """See to it that the stream is there and fits, for up to `seconds` while JetStream is not ready.

    An existing stream keeps what its operator chose (replicas, placement, compression); what can be set
    right is updated when `create` is given. Raises ServerUnsuitable, or Unavailable when nothing answers.
    """
    _check_version(jetstream.connection.server_version)
    reason = "JetStream does not answer"
    with anyio.move_on_after(seconds):
        while True:
            try:
                return await _prepare(jetstream, subject_filter, create=create)
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


async def _prepare(jetstream: JetStream, subject_filter: str, *, create: bool) -> None:
    name = jetstream.stream
    try:
        config = (await jetstream.info()).config
    except Refused as refused:
        if refused.code != STREAM_NOT_FOUND:
            raise
        if not create:
            raise ServerUnsuitable(f"there is no stream {name}: start a node first") from refused
        config = (await jetstream.create(wanted_config(name, subject_filter))).config
    problem = _unfit(config, subject_filter)
    if problem:
        raise ServerUnsuitable(f"stream {name} has {problem}: it cannot hold the log")
    window = config.get("duplicate_window", 0)
    if _lacking(config) or window < DEDUPLICATION_SECONDS * 10**9:
        if create:
            longest = max(window, DEDUPLICATION_SECONDS * 10**9)
            config = (await jetstream.update({**config, **_WANTED, "duplicate_window": longest})).config
        lacking = _lacking(config)
        if lacking:
            raise ServerUnsuitable(
                f"stream {name} answers without {', '.join(lacking)}: use nats-server 2.12 or newer"
            )


def _unfit(config: Mapping[str, Any], subject_filter: str) -> str:
    if config.get("subjects") != [subject_filter]:
        return f"the subjects {config.get('subjects')} instead of {subject_filter}"
    for key in ("mirror", "sources", "subject_transform"):
        if config.get(key):
            return f"a {key}"
    return ", ".join(
        f"{key} {config[key]!r} instead of {value!r}"
        for key, value in _REQUIRED.items()
        if config.get(key, value) != value
    )


def _lacking(config: Mapping[str, Any]) -> list[str]:
    return [key for key, value in _WANTED.items() if config.get(key, False) != value]


def _check_version(version: str) -> None:
    numbers = version.split("-")[0].split(".")
    try:
        found = (int(numbers[0]), int(numbers[1]))
    except (ValueError, IndexError):
        return  # a build without a number: the stream's own answer decides
    if found < MINIMUM_SERVER:
        raise ServerUnsuitable(f"nats-server {version} cannot hold the log: use 2.12 or newer")
