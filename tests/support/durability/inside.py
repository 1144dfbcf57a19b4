"""What a service under test has inside: a clock that a test moves, and what is broken on purpose.

Each is a file that the test writes, so that it changes in all processes of the service while they run.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, get_args

if TYPE_CHECKING:  # nothing of the service is imported before what it imports is changed
    from suite.bus.jetstream import JetStream, Outgoing, PubAck
    from suite.messages.envelope import Recorded
    from suite.projections.projection import Database

CLOCK: Final = "FAULTS_CLOCK"
BROKEN: Final = "FAULTS_BROKEN"
"""The variables that name the files."""

Defect: TypeAlias = Literal["drop", "double", "reorder", "forget", "process", "descriptor", "file"]
DEFECTS: Final[tuple[Defect, ...]] = get_args(Defect)
LEAKED: Final = 10
"""Descriptors with each event: so many are seen after some events."""
_LOOK_SECONDS: Final = 0.05


class Publish(Protocol):
    """`JetStream.publish`, unbound."""

    async def __call__(
        self, jetstream: JetStream, /, messages: Sequence[Outgoing], *, timeout: float
    ) -> PubAck: ...


def prepare() -> None:
    """Have this process follow the files that its environment names."""
    if (clock := os.environ.get(CLOCK)) is not None:
        _move_clock(_Content(Path(clock)))
    if (broken := os.environ.get(BROKEN)) is not None:
        _break(_Content(Path(broken)))


class _Content:
    """What stands in a small file, looked at a few times a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked_at = float("-inf")
        self._content = ""

    def __call__(self) -> str:
        if (now := time.monotonic()) - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            try:
                self._content = self._path.read_text()
            except OSError:
                self._content = ""
        return self._content


def _move_clock(ahead: _Content) -> None:
    """Have the time of day be another. What measures lengths of time goes on as it is."""
    from suite import identity

    real = time.time

    def seconds() -> float:
        return float(ahead() or 0.0)

    identity.utc_now = lambda: datetime.now(UTC) + timedelta(seconds=seconds())
    time.time = lambda: real() + seconds()


def _break(defect: _Content) -> None:
    """Have the service do to events of metrics what it must never do, while the file says so."""
    from suite.bus.jetstream import JetStream
    from suite.projections.evaluation import EvaluationProjection

    publish, fold = JetStream.publish, EvaluationProjection.fold
    broken = _BrokenAppend(publish, defect)

    async def publish_broken(self: JetStream, messages: Sequence[Outgoing], *, timeout: float) -> PubAck:
        if defect() and ".metric." in messages[0].subject:
            return await broken(self, messages, timeout)
        return await publish(self, messages, timeout=timeout)

    async def fold_broken(self: EvaluationProjection, db: Database, events: Sequence[Recorded]) -> None:
        await fold(self, db, [] if defect() == "forget" else events)

    JetStream.publish = publish_broken  # type: ignore[method-assign]
    EvaluationProjection.fold = fold_broken  # type: ignore[method-assign]


class _BrokenAppend:
    """Publishes, and does one thing wrong."""

    def __init__(self, publish: Publish, defect: _Content) -> None:
        self._publish = publish
        self._defect = defect
        self._held: Sequence[Outgoing] = ()
        self._leaked: list[object] = []

    async def __call__(self, jetstream: JetStream, messages: Sequence[Outgoing], timeout: float) -> PubAck:
        match self._defect():
            case "drop":
                return await _promised(jetstream)
            case "double":
                copies = [_under_another_id(each) for each in messages]
                await self._publish(jetstream, copies, timeout=timeout)
            case "reorder" if not self._held:
                self._held = messages
                return await _promised(jetstream)
            case "reorder":
                ack = await self._publish(jetstream, messages, timeout=timeout)
                held, self._held = self._held, ()
                await self._publish(jetstream, held, timeout=timeout)
                return ack
            case "process":
                self._leaked.append(subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL))
            case "descriptor":
                self._leaked += [os.open(os.devnull, os.O_RDONLY) for _ in range(LEAKED)]
            case "file":
                os.close(tempfile.mkstemp(suffix=".left")[0])
        return await self._publish(jetstream, messages, timeout=timeout)


async def _promised(jetstream: JetStream) -> PubAck:
    """The acknowledgement of what is not stored."""
    from suite.bus.jetstream import PubAck

    return PubAck(seq=(await jetstream.info()).state.last_seq + 1)


def _under_another_id(message: Outgoing) -> Outgoing:
    """The same event, as a message that the server does not know."""
    from suite.bus.jetstream import Outgoing

    headers = {**message.headers, "Nats-Msg-Id": f"{message.headers['Nats-Msg-Id']}-again"}
    return Outgoing.build(message.subject, message.body, headers)
