"""Decides which models a node leaves alone for a while, because they failed again and again (ADR 43).

    state = evolve(state, lived, now)                      # how an instance that has ended has lived
    follows = decide(state, fact, node=node, now=now)      # what to append behind a fact of an instance
    state = evolve(state, fact, now)
    if follows is not None:
        state = evolve(state, follows, now)
    pause = pause_of(state, model_id, attempt, now)        # why it must not be loaded now, or None

What counts is a content (the digest of the files) with its settings. It fails when

- its load fails in llama.cpp, or its process dies while it loads;
- its process crashes within `WORKED` after it was loaded. If all that it did was asked for by one name that
  stands for the model with adapters, that counts for the name (the content of all of it), not for the model.

An end that says nothing about the file and its settings does not count: the load was cancelled, the node
stopped or was lost, the system could not start a process, the files were changed meanwhile, NATS could not be
reached, the model turned out to need more memory than there can be (so it is refused from then on), or the
kernel killed the process for lack of memory while other models were there too.

It has worked when its process has lived for longer than `WORKED`, or was used, and ended when it was told to.
What left unused soon after its load has shown nothing: others may have needed its memory. None of that is
known of a name: its failures count for `MEMORY`.
A single failure may be a coincidence (`FREE_FAILURES`). Each further one in a row begins a pause, twice as
long as the one before. After the pause the next request loads the model, and all that come meanwhile wait for
that one load: if it fails too, the next pause begins; once it has worked, all is forgotten. So is a failure
after `MEMORY`.

Times are those of the log, so of a clock that may jump. If it was set forward, a pause may end early, which
costs one load. If it was set back, a pause lasts at most twice as long. How long an instance has lived is
measured by a clock that does not jump.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias, TypeGuard, TypeVar

import msgspec

from suite.domain.breaker import Policy
from suite.domain.exit_codes import described
from suite.errors import LoadFailed
from suite.messages.events import (
    Event,
    InstanceCrashed,
    InstanceEvent,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    ModelQuarantined,
    ModelReleased,
)

FREE_FAILURES: Final = 1
FIRST_PAUSE: Final = timedelta(seconds=30)
LONGEST_PAUSE: Final = timedelta(hours=1)
_POLICY: Final = Policy(
    failures=FREE_FAILURES + 1,
    first_pause_seconds=FIRST_PAUSE.total_seconds(),
    longest_pause_seconds=LONGEST_PAUSE.total_seconds(),
)
WORKED: Final = timedelta(minutes=5)
"""A process that crashes later than this after it was loaded had worked."""
MEMORY: Final = timedelta(days=1)
"""Failures that are further apart are not in a row."""
KEPT: Final = 8
"""How many contents and settings of a model have their failures remembered, the newest ones."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What a load is of."""

    content: str
    """The SHA-256 of the files; empty while it is not known."""
    settings_key: str


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that has not ended."""

    instance_id: str
    attempt: Attempt
    lived_seconds: float = 0.0
    was_used: bool = False


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """How many times in a row something failed."""

    attempt: Attempt
    count: int
    since: datetime
    """When it failed last."""
    quarantine: ModelQuarantined | None = None
    """The pause that began then; None if none did."""

    def are_of(self, attempt: Attempt) -> bool:
        """Whether this is what failed. What failed without a digest may be any content."""
        return self.attempt.settings_key == attempt.settings_key and self.attempt.content in (
            "",
            attempt.content,
        )


class Experience(msgspec.Struct, frozen=True, kw_only=True):
    """The state: what one node has experienced with its models, by id, and with names that stand for such."""

    running: Mapping[str, Running] = {}
    failures: Mapping[str, tuple[Failures, ...]] = {}


class FilesChanged(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a model may have other content now. This is not in the log: digests are."""

    model_id: str


class Lived(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance has lived that is about to end. This is not in the log."""

    model_id: str
    instance_id: str
    seconds: float
    """For how long it was loaded, by a clock that does not jump."""
    was_used: bool
    """Whether it has finished a request."""


Verdict: TypeAlias = Literal["failed", "worked"] | None


def decide(
    state: Experience, fact: InstanceEvent, *, node: str, now: datetime
) -> ModelQuarantined | ModelReleased | None:
    """The event that follows a fact of an instance; None if nothing does. `state` is the one before it."""
    match _verdict(state, fact):
        case "failed":
            failures = _failed(state, fact, now)
            if failures.count <= FREE_FAILURES:
                return None
            return ModelQuarantined(
                model_id=_blamed(state, fact)[0],
                node=node,
                content=failures.attempt.content,
                settings_key=failures.attempt.settings_key,
                failures=failures.count,
                until=now + pause(failures.count),
                instance_id=fact.instance_id,
                reason=_reason(fact),
            )
        case "worked" if last_quarantine(state, fact.model_id) is not None:
            return ModelReleased(model_id=fact.model_id, node=node, reason="worked")
        case _:
            return None


def pause(failures: int) -> timedelta:
    """How long a model is left alone after so many failures in a row."""
    return timedelta(seconds=_POLICY.pause(failures))


def pause_of(state: Experience, model_id: str, attempt: Attempt, now: datetime) -> ModelQuarantined | None:
    """Why something must not be loaded now, and until when; None if it may be."""
    failures = failures_of(state, model_id, attempt)
    if failures is None or failures.quarantine is None:
        return None
    until = failures.quarantine.until
    return failures.quarantine if timedelta(0) < until - now <= 2 * (until - failures.since) else None


def failures_of(state: Experience, model_id: str, attempt: Attempt) -> Failures | None:
    """The failures of something that has not worked since; None if there are none."""
    return next((each for each in state.failures.get(model_id, ()) if each.are_of(attempt)), None)


def last_quarantine(state: Experience, model_id: str) -> ModelQuarantined | None:
    """The newest quarantine of a model that has not worked since; its pause may be over."""
    found = [each.quarantine for each in state.failures.get(model_id, ()) if each.quarantine is not None]
    return found[-1] if found else None


def evolve(state: Experience, event: Event | FilesChanged | Lived, at: datetime) -> Experience:
    """The state after one event that happened at that time."""
    replace = msgspec.structs.replace
    match event:
        case InstanceLoadStarted():
            attempt = Attempt(content=event.content, settings_key=event.settings_key)
            running = Running(instance_id=event.instance_id, attempt=attempt)
            return replace(state, running={**state.running, event.model_id: running})
        case Lived() if (current := _current(state, event)) is not None:
            lived = replace(current, lived_seconds=event.seconds, was_used=event.was_used)
            return replace(state, running={**state.running, event.model_id: lived})
        case InstanceLoadFailed() | InstanceCrashed() | InstanceUnloaded():
            return _after_end(state, event, at)
        case ModelQuarantined():
            return _put(state, event.model_id, _quarantined(event, at))
        case ModelReleased(model_id=model_id):
            return replace(state, failures=_less(state.failures, model_id))
        case FilesChanged(model_id=model_id) if model_id in state.failures:
            known = tuple(each for each in state.failures[model_id] if each.attempt.content)
            return replace(state, failures={**state.failures, model_id: known})
        case _:
            return state


def _after_end(state: Experience, event: InstanceEvent, at: datetime) -> Experience:
    if _current(state, event) is None:
        return state
    model_id = event.model_id
    ended = msgspec.structs.replace(state, running=_less(state.running, model_id))
    match _verdict(state, event):
        case "failed":
            return _put(ended, _blamed(state, event)[0], _failed(state, event, at))
        case "worked":
            return msgspec.structs.replace(ended, failures=_less(state.failures, model_id))
        case _:
            return ended


def _verdict(state: Experience, fact: InstanceEvent) -> Verdict:
    """What the end of an instance says about its file and settings; None: nothing, or it is no end."""
    current = _current(state, fact)
    if current is None:
        return None
    lived_long = current.lived_seconds >= WORKED.total_seconds()
    match fact:
        case InstanceLoadFailed(code=LoadFailed.code):
            return None if _is_excused(state, fact.reason) else "failed"
        case InstanceCrashed() if lived_long:
            return "worked"
        case InstanceCrashed():
            return None if _is_excused(state, fact.reason) else "failed"
        case InstanceUnloaded(reason=reason) if reason != "node_lost":
            return "worked" if lived_long or current.was_used else None
        case _:
            return None


def _is_excused(state: Experience, reason: str | None) -> bool:
    """Whether an end was the fault of the machine, or of the models that share it."""
    return reason == "not_started" or (reason == "out_of_memory" and len(state.running) > 1)


def _failed(state: Experience, fact: InstanceEvent, at: datetime) -> Failures:
    """The failures of a model with this one, which is not in the state yet."""
    model_id, attempt = _blamed(state, fact)
    before = failures_of(state, model_id, attempt)
    goes_on = before is not None and at - before.since < MEMORY
    return Failures(attempt=attempt, count=before.count + 1 if before and goes_on else 1, since=at)


def _blamed(state: Experience, fact: InstanceEvent) -> tuple[str, Attempt]:
    """What a failure counts for: the model, or the name of one with adapters if nothing else was computed."""
    attempt = state.running[fact.model_id].attempt
    if _is_of_name(fact):
        return fact.variant, Attempt(content=fact.variant_content, settings_key=attempt.settings_key)
    return fact.model_id, attempt


def _is_of_name(fact: InstanceEvent) -> TypeGuard[InstanceCrashed]:
    """Whether a process crashed with the work of one name only. Memory is a matter of the model."""
    return isinstance(fact, InstanceCrashed) and fact.reason is None and bool(fact.variant_content)


def _reason(fact: InstanceEvent) -> str:
    match fact:
        case InstanceLoadFailed(message=message):
            return message
        case InstanceCrashed(reason="out_of_memory"):
            return "its process was killed by the kernel for lack of memory"
        case InstanceCrashed(exit_code=exit_code, model_id=model_id) if _is_of_name(fact):
            return f"the process of {model_id} crashed with nothing else to do, with {described(exit_code)}"
        case InstanceCrashed(exit_code=exit_code):
            return f"its process crashed soon after it was loaded, with {described(exit_code)}"
        case _:
            return ""


def _quarantined(event: ModelQuarantined, at: datetime) -> Failures:
    return Failures(
        attempt=Attempt(content=event.content, settings_key=event.settings_key),
        count=event.failures,
        since=at,
        quarantine=event,
    )


def _current(state: Experience, event: InstanceEvent | Lived) -> Running | None:
    running = state.running.get(event.model_id)
    return running if running is not None and running.instance_id == event.instance_id else None


def _put(state: Experience, model_id: str, failures: Failures) -> Experience:
    others = tuple(each for each in state.failures.get(model_id, ()) if not each.are_of(failures.attempt))
    kept = (*others, failures)[-KEPT:]
    return msgspec.structs.replace(state, failures={**state.failures, model_id: kept})


V = TypeVar("V")


def _less(mapping: Mapping[str, V], key: str) -> Mapping[str, V]:
    return {each: value for each, value in mapping.items() if each != key}
