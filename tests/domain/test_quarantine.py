"""Which models are left alone: what fails again and again, longer each time, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from suite.domain.quarantine import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MEMORY,
    WORKED,
    Attempt,
    Experience,
    FilesChanged,
    Lived,
    decide,
    evolve,
    pause,
    pause_of,
)
from suite.messages.events import (
    CrashReason,
    InstanceCrashed,
    InstanceEvent,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    LoadFailureReason,
    ModelQuarantined,
    ModelReleased,
    UnloadReason,
)

NODE = "box1"
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
FILE = Attempt(content="file", settings_key="settings")
MENDED = Attempt(content="mended", settings_key="settings")
SMALLER = Attempt(content="file", settings_key="smaller")
WITH_PIRATE = Attempt(content="file and adapter", settings_key="settings")


class Node:
    """A node's experience, its clock and its log, without a node."""

    def __init__(self) -> None:
        self.state = Experience()
        self.now = NOON
        self.clock = 0.0
        """In seconds; unlike the time of day it is never set."""
        self.ready: dict[str, float] = {}
        self.used: set[str] = set()
        self.log: list[tuple[datetime, ModelQuarantined | ModelReleased]] = []
        self.starts = 0

    def loads(self, model: str = "m", attempt: Attempt = FILE) -> bool:
        """Whether a request for the model may load it."""
        return pause_of(self.state, model, attempt, self.now) is None

    def live(self, duration: timedelta) -> None:
        """Let time pass."""
        self.now += duration
        self.clock += duration.total_seconds()

    def start(self, model: str = "m", attempt: Attempt = FILE) -> None:
        assert self.loads(model, attempt)
        self.starts += 1
        self.note(
            InstanceLoadStarted(
                node=NODE,
                model_id=model,
                instance_id=f"{model}-{self.starts}",
                reserved_bytes=1,
                context_tokens=1,
                content=attempt.content,
                settings_key=attempt.settings_key,
            )
        )

    def fail(
        self, model: str = "m", *, code: str = "load_failed", reason: LoadFailureReason | None = None
    ) -> None:
        instance_id = self._instance(model)
        self.note(
            InstanceLoadFailed(
                node=NODE, model_id=model, instance_id=instance_id, code=code, message="odd", reason=reason
            )
        )

    def load(self, model: str = "m") -> None:
        instance_id = self._instance(model)
        self.ready[instance_id] = self.clock
        self.note(
            InstanceLoaded(
                node=NODE, model_id=model, instance_id=instance_id, pid=1, resident_bytes=1, load_ms=1.0
            )
        )

    def use(self, model: str = "m") -> None:
        self.used.add(self._instance(model))

    def crash(self, model: str = "m", reason: CrashReason | None = None, *, variant: str = "") -> None:
        instance_id = self._instance(model)
        self.note(
            InstanceCrashed(
                node=NODE,
                model_id=model,
                instance_id=instance_id,
                exit_code=-6,
                generations=0,
                reason=reason,
                variant=variant,
                variant_content=WITH_PIRATE.content if variant else "",
            )
        )

    def unload(self, model: str = "m", reason: UnloadReason = "idle") -> None:
        instance_id = self._instance(model)
        self.note(
            InstanceUnloaded(node=NODE, model_id=model, instance_id=instance_id, reason=reason, freed_bytes=1)
        )

    def release(self, model: str = "m") -> None:
        self._append(ModelReleased(model_id=model, node=NODE, reason="requested"))

    def note(self, fact: InstanceEvent) -> None:
        ready = self.ready.get(fact.instance_id)
        lived = Lived(
            model_id=fact.model_id,
            instance_id=fact.instance_id,
            seconds=0.0 if ready is None else self.clock - ready,
            was_used=fact.instance_id in self.used,
        )
        self.state = evolve(self.state, lived, self.now)
        follows = decide(self.state, fact, node=NODE, now=self.now)
        self.state = evolve(self.state, fact, self.now)
        if follows is not None:
            self._append(follows)

    def restart(self) -> None:
        """What is running ends with the process; what the log has is read again."""
        self.state = self.restored()

    def restored(self) -> Experience:
        state = Experience()
        for at, fact in self.log:
            state = evolve(state, fact, at)
        return state

    def _append(self, fact: ModelQuarantined | ModelReleased) -> None:
        self.log.append((self.now, fact))
        self.state = evolve(self.state, fact, self.now)

    def _instance(self, model: str) -> str:
        running = self.state.running.get(model)
        return running.instance_id if running is not None else "none"


def failed_twice() -> Node:
    node = Node()
    for _ in range(2):
        node.start()
        node.fail()
    return node


def test_a_model_that_fails_twice_in_a_row_is_left_alone_and_longer_each_time() -> None:
    node = Node()
    node.start()
    node.fail()
    assert node.loads(), "one failure may be a coincidence"
    node.start()
    node.fail()
    told = [node.log[-1][1]]
    for expected in (30, 60, 120, 240, 480, 960, 1920, 3600, 3600):
        node.now += expected * SECOND - SECOND
        assert not node.loads()
        node.now += SECOND
        assert node.loads(), "after the pause one attempt is let through"
        node.start()
        node.fail()
        told.append(node.log[-1][1])
    assert [each.failures for each in told if isinstance(each, ModelQuarantined)] == list(range(2, 12))
    assert all(each.reason == "odd" for each in told if isinstance(each, ModelQuarantined))
    assert pause(10**9) == LONGEST_PAUSE


@settings(deadline=None)
@given(st.lists(st.floats(0, 4000), min_size=33, max_size=33))
def test_a_model_that_always_fails_is_started_a_few_times_however_requests_come(gaps: list[float]) -> None:
    node = Node()
    begun: list[datetime] = []
    for gap in gaps:
        node.now += timedelta(seconds=gap)
        if node.loads():
            begun.append(node.now)
            node.start()
            node.fail()
    for count, (before, after) in enumerate(pairwise(begun), 1):
        assert after - before >= pause(count)
    if sum(gaps) < FIRST_PAUSE.total_seconds():
        assert len(begun) == 2


@pytest.mark.parametrize("other", [MENDED, SMALLER, Attempt(content="", settings_key="settings")])
def test_other_content_or_settings_may_be_loaded_at_once(other: Attempt) -> None:
    node = failed_twice()
    assert not node.loads()
    assert node.loads(attempt=other)
    assert node.loads("another")
    node.start(attempt=other)
    node.fail()
    assert not node.loads(), "and what failed stays where it is"
    node.start(attempt=other)
    node.load()
    node.use()
    node.unload()
    assert isinstance(node.log[-1][1], ModelReleased)


def test_what_failed_before_its_digest_was_known_is_known_by_its_settings_until_files_change() -> None:
    unknown = Attempt(content="", settings_key="settings")
    node = Node()
    node.start(attempt=unknown)
    node.fail()
    node.start(attempt=FILE)
    node.fail()
    assert not node.loads()
    node = Node()
    for _ in range(2):
        node.start(attempt=unknown)
        node.fail()
    assert not node.loads(attempt=FILE)
    node.state = evolve(node.state, FilesChanged(model_id="m"), node.now)
    assert node.loads(attempt=FILE)


@pytest.mark.parametrize("code", ["load_cancelled", "model_file_invalid", "not_enough_memory", "unavailable"])
def test_loads_that_fail_for_other_reasons_than_file_and_settings_do_not_count(code: str) -> None:
    node = Node()
    for _ in range(5):
        node.start()
        node.fail(code=code)
        node.start()
        node.fail(reason="not_started")
    assert not node.log


def test_a_kill_for_lack_of_memory_counts_only_for_a_model_that_was_alone() -> None:
    node = Node()
    node.start("other")
    for _ in range(3):
        node.start()
        node.fail(reason="out_of_memory")
        node.start()
        node.load()
        node.crash(reason="out_of_memory")
    assert not node.log
    node.unload("other")
    node.start()
    node.fail(reason="out_of_memory")
    node.start()
    node.load()
    node.crash(reason="out_of_memory")
    assert not node.loads()


def test_crashes_soon_after_a_load_count_and_those_of_a_model_that_had_worked_do_not() -> None:
    node = Node()
    for _ in range(5):
        node.start()
        node.load()
        node.live(WORKED)
        node.crash()
    assert not node.log
    node.start()
    node.fail()
    node.start()
    node.load()
    node.live(WORKED - SECOND)
    node.crash()
    assert not node.loads()
    (_, fact) = node.log[-1]
    assert isinstance(fact, ModelQuarantined)
    assert "exit code -6 (SIGABRT)" in fact.reason
    node.now += FIRST_PAUSE
    node.start()
    node.load()
    node.live(WORKED)
    node.crash()
    assert isinstance(node.log[-1][1], ModelReleased)
    node.start()
    node.fail()
    assert node.loads()


def test_crashes_with_the_work_of_one_name_only_count_for_that_name_and_not_for_its_model() -> None:
    node = Node()
    for _ in range(2):
        node.start()
        node.load()
        node.use()
        node.crash(variant="pirate")
    assert node.loads() and not node.loads("pirate", WITH_PIRATE)
    assert node.loads("pirate", Attempt(content="another adapter", settings_key="settings"))
    (_, fact) = node.log[-1]
    assert isinstance(fact, ModelQuarantined)
    assert (fact.model_id, fact.content, fact.failures) == ("pirate", WITH_PIRATE.content, 2)
    assert fact.reason.startswith("the process of m crashed with nothing else to do, with exit code -6")
    node.restart()
    assert not node.loads("pirate", WITH_PIRATE), "also after a restart"
    node.start()
    node.load()
    node.use()
    node.unload()
    assert not node.loads("pirate", WITH_PIRATE), "that its model works says nothing of it"
    for _ in range(2):
        node.start()
        node.load()
        node.crash()
    assert not node.loads(), "without the work of a name, the model is why"
    node.release("pirate")
    assert node.loads("pirate", WITH_PIRATE) and not node.loads()


def test_a_kill_for_lack_of_memory_counts_for_the_model_whatever_it_computed() -> None:
    node = Node()
    for _ in range(2):
        node.start()
        node.load()
        node.crash(variant="pirate", reason="out_of_memory")
    assert not node.loads() and node.loads("pirate", WITH_PIRATE)


def test_a_model_that_was_used_and_ended_in_order_has_worked_and_one_of_a_lost_node_is_not_judged() -> None:
    node = failed_twice()
    node.now += FIRST_PAUSE
    node.start()
    node.load()
    node.unload(reason="node_lost")
    node.start()
    node.fail()
    assert not node.loads()
    node.now += 2 * FIRST_PAUSE
    node.start()
    node.load()
    node.use()
    node.unload(reason="evicted")
    assert node.log[-1][1] == ModelReleased(model_id="m", node=NODE, reason="worked")


def test_what_left_unused_soon_after_its_load_has_shown_nothing() -> None:
    node = failed_twice()
    for expected in (1, 2):
        node.now += expected * FIRST_PAUSE
        node.start()
        node.load()
        node.live(SECOND)
        node.unload(reason="evicted")
        assert len(node.log) == expected, "its failures are not forgotten"
        node.start()
        node.load()
        node.crash()
        assert not node.loads()
    node.live(4 * FIRST_PAUSE)
    node.start()
    node.load()
    node.live(WORKED)
    node.unload(reason="idle")
    assert isinstance(node.log[-1][1], ModelReleased)


def test_a_crash_after_long_service_is_none_of_a_new_model_though_the_clock_was_set_back() -> None:
    node = Node()
    for _ in range(3):
        node.start()
        node.load()
        node.live(WORKED)
        node.now -= timedelta(hours=2)
        node.crash()
    assert not node.log


def test_failures_that_are_far_apart_are_not_in_a_row() -> None:
    node = failed_twice()
    node.now += MEMORY
    node.start()
    node.fail()
    assert node.loads()


def test_a_clock_that_is_set_costs_a_load_at_most_and_never_more_than_twice_the_pause() -> None:
    node = failed_twice()
    node.now -= timedelta(days=365)
    assert node.loads()
    node.now = NOON - FIRST_PAUSE
    assert not node.loads()
    node.now = NOON + timedelta(days=365)
    assert node.loads()
    node.start()
    node.fail()
    node.start()
    node.fail()
    assert not node.loads()


class AnyOrder(RuleBasedStateMachine):
    """Loads, ends, other files, restarts and clocks that jump, in any order."""

    models = st.sampled_from(["a", "b"])
    attempts = st.builds(
        Attempt, content=st.sampled_from(["x", "y"]), settings_key=st.sampled_from(["1", "2"])
    )

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()

    @rule(model=models, attempt=attempts)
    def ask(self, model: str, attempt: Attempt) -> None:
        if model not in self.node.state.running and self.node.loads(model, attempt):
            self.node.start(model, attempt)

    @rule(
        model=models,
        code=st.sampled_from(["load_failed", "load_failed", "load_cancelled"]),
        reason=st.sampled_from([None, None, "out_of_memory"]),
    )
    def fail(self, model: str, code: str, reason: LoadFailureReason | None) -> None:
        self.node.fail(model, code=code, reason=reason)

    @rule(model=models)
    def load(self, model: str) -> None:
        self.node.load(model)

    @rule(
        model=models,
        reason=st.sampled_from([None, "out_of_memory"]),
        variant=st.sampled_from(["", "", "pirate"]),
    )
    def crash(self, model: str, reason: CrashReason | None, variant: str) -> None:
        self.node.crash(model, reason, variant=variant)

    @rule(model=models, reason=st.sampled_from(["idle", "evicted", "node_lost"]))
    def unload(self, model: str, reason: UnloadReason) -> None:
        self.node.unload(model, reason)

    @rule(seconds=st.sampled_from([1, 20, 40, 400, 4000, 100_000, -20, -4000]))
    def pass_time(self, seconds: int) -> None:
        self.node.live(timedelta(seconds=max(0, seconds)))
        self.node.now += timedelta(seconds=min(0, seconds))

    @rule(model=models, attempt=attempts)
    def release(self, model: str, attempt: Attempt) -> None:
        self.node.release(model)
        assert self.node.loads(model, attempt)

    @precondition(lambda self: self.node.log)
    @rule()
    def restart(self) -> None:
        self.node.restart()

    @invariant()
    def a_restart_changes_nothing(self) -> None:
        restored = self.node.restored()
        for model in ("a", "b"):
            for attempt in (FILE, *ATTEMPTS):
                told = pause_of(restored, model, attempt, self.node.now)
                assert told == pause_of(self.node.state, model, attempt, self.node.now)

    @invariant()
    def a_pause_has_an_end(self) -> None:
        later = self.node.now + 2 * LONGEST_PAUSE + timedelta(seconds=4020)
        for model in ("a", "b"):
            for attempt in ATTEMPTS:
                assert pause_of(self.node.state, model, attempt, later) is None


ATTEMPTS = [Attempt(content=content, settings_key=key) for content in "xy" for key in "12"]

TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
