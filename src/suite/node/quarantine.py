"""The models that this node leaves alone for a while, because they failed again and again (ADR 43)."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from suite.catalogue import Catalogue, Model
from suite.catalogue.variants import content_of
from suite.domain.breaker import failed_with
from suite.domain.quarantine import (
    MEMORY,
    Attempt,
    Experience,
    FilesChanged,
    Lived,
    decide,
    evolve,
    failures_of,
    last_quarantine,
    pause_of,
)
from suite.errors import LogNotWritable, Quarantined
from suite.identity import Now
from suite.messages.actions.status import BreakerInfo
from suite.messages.events import InstanceEvent, ModelQuarantined, ModelReleased
from suite.messages.times import rfc3339
from suite.node.journal import Journal

logger = logging.getLogger("suite.supervisor")


class Quarantine:
    """Remembers what became of the node's instances, and says which models must not be loaded now."""

    def __init__(
        self, experience: Experience, *, node: str, catalogue: Catalogue, journal: Journal, now: Now
    ) -> None:
        self._state = experience
        self._catalogue = catalogue
        self._node = node
        self._journal = journal
        self._now = now

    def pause_of(self, model: Model) -> ModelQuarantined | None:
        """Why a model must not be loaded now, and until when; None if it may be."""
        return pause_of(self._state, model.model_id, _attempt(model), self._now())

    def pause_of_name(self, name: str) -> ModelQuarantined | None:
        """Why a name that stands for a model with adapters must not be computed now; None if it may be."""
        if name not in self._state.failures:
            return None
        attempt = self._attempt_of_name(name)
        return None if attempt is None else pause_of(self._state, name, attempt, self._now())

    def paused(self, models: Mapping[str, Model]) -> tuple[str, ...]:
        """Those of these models, by id, that must not be loaded now."""
        failed = [models[id] for id in self._state.failures if id in models]
        return tuple(each.model_id for each in failed if self.pause_of(each) is not None)

    def is_suspect(self, model: Model) -> bool:
        """Whether a model was quarantined and has not worked since, so that only a request should try it."""
        failures = failures_of(self._state, model.model_id, _attempt(model))
        return failures is not None and failures.quarantine is not None

    def breakers(self, models: Mapping[str, Model]) -> Iterator[BreakerInfo]:
        """As breakers, what is quarantined, or was and has not worked since: of these models, and of all
        names that stand for one with adapters.
        """
        now = self._now()
        for model_id in self._state.failures:
            of_name = self._attempt_of_name(model_id)
            attempt = of_name or (_attempt(models[model_id]) if model_id in models else None)
            failures = None if attempt is None else failures_of(self._state, model_id, attempt)
            if attempt is None or failures is None or (quarantine := failures.quarantine) is None:
                continue
            if of_name and now - failures.since >= MEMORY:
                continue  # nothing else shows that a name works
            is_open = pause_of(self._state, model_id, attempt, now) is not None
            yield BreakerInfo(
                node=self._node,
                kind="model",
                name=model_id,
                state="open" if is_open else "half_open",
                failures=failures.count,
                since=rfc3339(failures.since if is_open else quarantine.until),
                until=rfc3339(quarantine.until) if is_open else None,
                reason=quarantine.reason,
            )

    def check(self, model: Model) -> None:
        """Raise Quarantined for a model that must not be loaded now."""
        quarantine = self.pause_of(model)
        if quarantine is not None:
            raise _refusal(quarantine, self._now())

    def check_name(self, name: str) -> None:
        """Raise Quarantined for a name that stands for a model with adapters and must not be computed now."""
        quarantine = self.pause_of_name(name)
        if quarantine is not None:
            raise _refusal(quarantine, self._now())

    def _attempt_of_name(self, name: str) -> Attempt | None:
        """What a name stands for; None if that is no model with adapters, or not all files were read."""
        models, variant = self._catalogue.models, self._catalogue.variants.get(name)
        content = None if variant is None else content_of(variant, models)
        if variant is None or content is None:
            return None
        return Attempt(content=content, settings_key=models[variant.base].settings_key)

    def lived(self, lived: Lived) -> None:
        """Take notice of how an instance has lived, before its end is noted."""
        self._state = evolve(self._state, lived, self._now())

    def note(self, fact: InstanceEvent) -> ModelQuarantined | ModelReleased | None:
        """Take notice of a fact. Returns the event that follows from it, for `record`."""
        now = self._now()
        follows = decide(self._state, fact, node=self._node, now=now)
        self._state = evolve(self._state, fact, now)
        if follows is not None:
            self._state = evolve(self._state, follows, now)
        return follows

    async def record(self, follows: ModelQuarantined | ModelReleased) -> None:
        """Append what follows from a fact. If the log takes no events, it is written later."""
        if isinstance(follows, ModelQuarantined):
            logger.warning(
                "%s is quarantined until %s: it %s",
                follows.model_id,
                _told(follows.until),
                failed_with(follows.failures, follows.reason),
            )
        with suppress(LogNotWritable):
            await self._journal.record(follows)

    def files_changed(self, model_id: str) -> None:
        """The files of a model may have other content than before."""
        self._state = evolve(self._state, FilesChanged(model_id=model_id), self._now())

    async def release(self, model_id: str) -> int | None:
        """Forget the failures of a model. Returns the event's sequence; None if it was not quarantined.

        Raises what `Journal.decide` raises.
        """
        quarantine = last_quarantine(self._state, model_id)
        released = ModelReleased(model_id=model_id, node=self._node, reason="requested")
        seq = None
        if quarantine is not None:
            seq = await self._journal.decide(released, undone=quarantine)
        self._state = evolve(self._state, released, self._now())
        return seq


def _attempt(model: Model) -> Attempt:
    return Attempt(content=model.sha256 or "", settings_key=model.settings_key)


def _refusal(quarantine: ModelQuarantined, now: datetime) -> Quarantined:
    left = quarantine.until - now
    return Quarantined(
        f"{quarantine.model_id} is quarantined until {_told(quarantine.until)}, for another "
        f"{math.ceil(left.total_seconds())} s: it "
        f"{failed_with(quarantine.failures, quarantine.reason)}; mend its file or its "
        f"settings, or have it tried again now with `suite release {shlex.quote(quarantine.model_id)}`",
        retry_after_ms=math.ceil(left / timedelta(milliseconds=1)),
    )


def _told(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
