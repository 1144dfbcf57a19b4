"""Finds messages in the log that are not events of the suite (ADR 20). They are counted and reported once.

Read models count those on the subjects that they follow, as they skip them. Those on other subjects, such as
`suite.event.whatever`, are found in the stream's own list of subjects.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from suite.errors import SuiteError
from suite.log import Log, Unreadable, told
from suite.messages.events import ErrorReported
from suite.messages.subjects import aggregate_of
from suite.projections.errors import has_error
from suite.projections.projections import Projections
from suite.projections.projector import Projector
from suite.projections.unreadable import Skipped, skipped
from suite.ticks import tick

logger = logging.getLogger("suite.node")

LOOK_SECONDS: Final = 2.0
LOOKED_AT: Final = 64
"""How many unfollowed subjects one look reads from; the next looks read from the rest."""
REMEMBERED: Final = 4096
"""How many unfollowed subjects are remembered."""

ERROR_TYPE: Final = "foreign_message"


class Foreign(NamedTuple):
    """How many foreign messages were found so far, and the first one."""

    messages: int = 0
    first: Unreadable | None = None

    def __str__(self) -> str:
        if self.first is None:
            return "no foreign messages"
        return f"{self.messages} in the log, skipped; the first: {told(self.first)}"


class ForeignMessages:
    """Looks for foreign messages every few seconds, and reports the first as an error, once per fleet."""

    def __init__(self, log: Log, projections: Projections, node: str) -> None:
        self._log = log
        self._projections = projections
        self._node = node
        self._followed = {
            aggregate
            for projector in projections.by_name.values()
            for aggregate in projector.projection.aggregates
        }
        self._reported = False
        self._read: dict[str, tuple[int, Sequence[Skipped]]] = {}
        """What each read model had skipped, and the event up to which it had read then."""
        self._subjects = 0
        self._verdicts: dict[str, Unreadable | None] = {}
        """The first message of each unfollowed subject; None if it is an event of a later version."""
        self.found = Foreign()
        """The result of the last look."""

    async def run(self) -> None:
        """Look every `LOOK_SECONDS`. After an error the next look tries again."""
        while True:
            try:
                await self._look()
            except SuiteError as error:
                logger.debug("foreign messages are looked for later: %s", error.message)
            await tick(LOOK_SECONDS)

    async def _look(self) -> None:
        finds = [*(await self._in_read_models()).values(), *await self._elsewhere()]
        if finds:
            first = min((find.first for find in finds), key=lambda message: message.seq)
            self.found = Foreign(sum(find.messages for find in finds), first)
            if not self._reported:
                await self._report()
                self._reported = True

    async def _in_read_models(self) -> Mapping[str, Skipped]:
        """The skipped messages by aggregate; the highest count, if several read models follow one."""
        finds: dict[str, Skipped] = {}
        for projector in self._projections.by_name.values():
            for find in await self._skipped_by(projector):
                known = finds.get(find.aggregate)
                if known is None or known.messages < find.messages:
                    finds[find.aggregate] = find
        return finds

    async def _skipped_by(self, projector: Projector) -> Sequence[Skipped]:
        """What a read model has skipped. Its file is only read when it has read on in the log."""
        name, seq = projector.projection.name, projector.seq
        known_at, known = self._read.get(name, (-1, ()))
        if known_at == seq:
            return known
        async with projector.reading() as db:
            found = await skipped(db)
        self._read[name] = (seq, found)
        return found

    async def _elsewhere(self) -> list[Skipped]:
        extent = await self._log.extent()
        if extent.subjects == self._subjects and not self._verdicts:
            return []
        counts = await self._log.subjects()
        strange = [subject for subject in counts if not self._is_followed(subject)]
        new = [subject for subject in strange if subject not in self._verdicts]
        for subject in new[: min(LOOKED_AT, REMEMBERED - len(self._verdicts))]:
            first = await self._log.first(subject)
            self._verdicts[subject] = first if isinstance(first, Unreadable) else None
        self._subjects = extent.subjects
        return [
            Skipped(first.aggregate, counts[subject], first)
            for subject in strange
            if (first := self._verdicts.get(subject)) is not None
        ]

    def _is_followed(self, subject: str) -> bool:
        """Whether a read model sees this subject: filters require one more token after the aggregate."""
        aggregate, rest = aggregate_of(subject)
        return bool(rest) and aggregate in self._followed

    async def _report(self) -> None:
        """Append one error, unless there is one already: in the read model, or on the server (same id)."""
        errors = self._projections.errors
        async with errors.reading(await errors.wait_current()) as db:
            if await has_error(db, ERROR_TYPE):
                return
        message = f"foreign messages: {self.found}; see who may publish under the suite's event subjects"
        logger.warning("%s", message)
        report = ErrorReported(node=self._node, error_type=ERROR_TYPE, message=message, severity="warning")
        await self._log.append(report, id=f"{report.aggregate}.{report.fact}:{ERROR_TYPE}")
