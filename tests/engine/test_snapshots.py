"""What is kept, found and given up, whatever the budgets."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.snapshots.file import Payload
from suite.engine.snapshots.snapshots import Snapshots
from support.snapshots import PATIENCE, Time, files, loaded, snapshots


def test_the_longest_common_beginning_is_found() -> None:
    store = snapshots()
    store.put("a", [1, 2, 3], b"a")
    store.put("b", [1, 2, 3, 4, 5], b"b")
    store.put("c", [7, 8], b"c")
    found = store.find([1, 2, 3, 4, 9], None)
    assert found is not None
    assert (found.tokens, found.total, store.load(found)) == (4, 5, b"b")
    assert store.find([9, 1, 2], None) is None


def test_of_equals_the_conversations_own_is_found_then_the_one_used_last() -> None:
    time = Time()
    store = snapshots(time=time)
    for name in ("a", "b", "c"):
        time.pass_by(1)
        store.put(name, [1, 2, ord(name)], name.encode())
    assert loaded(store, [1, 2, 9], "a") == b"a"
    assert loaded(store, [1, 2, 9], "d") == b"a"
    assert loaded(store, [1, 2, ord("b")], "d") == b"b"
    assert loaded(store, [1, 2, 9], None) == b"b"


def test_only_whole_ones_are_found_where_a_state_cannot_be_cut_back() -> None:
    store = snapshots()
    store.put("a", [1, 2, 3, 4, 5], b"a")
    store.put("b", [1, 2], b"b")
    assert loaded(store, [1, 2, 3, 4, 6], whole=True) == b"b"
    assert loaded(store, [1, 2, 3, 4, 5], whole=True) == b"a"
    assert loaded(store, [1], whole=True) is None


def test_a_state_is_not_found_for_less_than_it_can_be_cut_back_to() -> None:
    store = snapshots()
    store.put("a", [1, 2, 3, 4, 5], b"a", min_prefix=4)
    store.put("b", [1, 2, 3], b"b")
    assert loaded(store, [1, 2, 3, 4, 9]) == b"a"
    assert loaded(store, [1, 2, 3, 9]) == b"b"
    assert loaded(store, [1, 2, 3, 4, 9], whole=True) == b"b"


def test_less_than_is_asked_for_is_not_found() -> None:
    store = snapshots()
    store.put("a", [1, 2, 3], b"a")
    assert store.find([1, 2, 3, 4], "a", at_least=3) is not None
    assert store.find([1, 2, 3, 4], "a", at_least=4) is None


def test_a_later_state_takes_the_place_of_the_conversations_earlier_one() -> None:
    store = snapshots()
    store.put("a", [1, 2, 3], b"early")
    store.put("a", [7, 8], b"late")
    assert len(store) == 1
    assert store.find([1, 2, 3], "a") is None
    assert loaded(store, [7, 8], "a") == b"late"
    assert store.tokens_of("a") == [7, 8]
    assert store.tokens_of("b") is None


def test_what_belongs_to_nobody_goes_when_its_continuation_comes_unless_that_cannot_be_cut_back() -> None:
    store = snapshots()
    store.put(None, [1, 2], b"system")
    store.put(None, [1, 3], b"other")
    store.put("a", [1, 2, 3], b"a", min_prefix=3)
    assert len(store) == 3
    store.put("b", [1, 2, 4], b"b")
    assert len(store) == 3
    assert loaded(store, [1, 2], whole=True) is None
    assert loaded(store, [1, 3]) == b"other"


def test_nothing_is_kept_of_nothing() -> None:
    store = snapshots()
    store.put("a", [], b"a")
    store.put("a", [1], b"")
    assert len(store) == 0


def test_one_conversation_is_forgotten_or_all() -> None:
    store = snapshots()
    store.put("a", [1, 2, 3], b"a")
    store.put("b", [4, 5], b"b")
    store.put(None, [6], b"nobody's")
    assert store.forget("c") == []
    assert [each.count for each in store.forget("a")] == [3]
    assert store.find([1, 2, 3], "a") is None
    assert [each.count for each in store.forget(None)] == [2, 1]
    assert (len(store), store.memory_used) == (0, 0)


def test_what_was_found_and_then_forgotten_is_not_loaded() -> None:
    store = snapshots()
    store.put("a", [1, 2, 3], b"a")
    found = store.find([1, 2, 3], "a")
    assert found is not None
    store.forget("a")
    store.put("a", [1, 2, 3], b"new")
    assert store.load(found) is None


def test_what_is_not_used_for_the_longest_time_allowed_is_dropped() -> None:
    time = Time()
    store = snapshots(time=time, max_age_seconds=10)
    store.put("a", [1], b"a")
    store.put("b", [2], b"b")
    time.pass_by(8)
    assert loaded(store, [1]) == b"a"
    time.pass_by(8)
    assert store.find([2], "b") is None
    assert loaded(store, [1]) == b"a"
    time.pass_by(11)
    store.expire()
    assert (len(store), store.memory_used) == (0, 0)


def test_the_number_of_conversations_is_kept_to() -> None:
    time = Time()
    store = snapshots(time=time, max_conversations=2)
    for name in ("a", "b", "c"):
        time.pass_by(1)
        store.put(name, [ord(name)], name.encode())
    assert [store.tokens_of(name) for name in ("a", "b", "c")] == [None, [98], [99]]


def test_the_one_not_used_for_longest_makes_room() -> None:
    time = Time()
    store = snapshots(time=time, memory_bytes=250)
    for name in ("a", "b", "a", "c"):
        time.pass_by(1)
        if store.tokens_of(name) is None:
            store.put(name, [ord(name)], bytes(96))
        else:
            assert loaded(store, [ord(name)]) is not None
    assert [store.tokens_of(name) is not None for name in ("a", "b", "c")] == [True, False, True]
    assert store.memory_used == 200


def test_many_tokens_in_few_bytes_are_worth_more_than_what_is_a_little_newer() -> None:
    time = Time()
    store = snapshots(time=time, memory_bytes=1000)
    store.put("long", list(range(100)), bytes(100))
    time.pass_by(60)
    store.put("short", [*range(1000, 1010)], bytes(960))
    assert store.tokens_of("long") is not None
    assert store.tokens_of("short") is None
    time.pass_by(3500)
    store.put("short", [*range(1000, 1010)], bytes(960))
    assert store.tokens_of("short") is not None


def test_in_memory_alone_what_is_larger_than_the_budget_is_not_kept() -> None:
    store = snapshots(memory_bytes=100)
    store.put("a", [1], bytes(50))
    store.put("b", [2], bytes(97))
    assert store.tokens_of("a") == [1]
    assert store.tokens_of("b") is None


PROMPT = st.lists(st.integers(0, 2), max_size=6)
CONVERSATION = st.sampled_from(["a", "b", "c", None])
STEP = st.one_of(
    st.tuples(st.just("put"), CONVERSATION, PROMPT.filter(bool), st.integers(1, 300)),
    st.tuples(st.just("supersede"), CONVERSATION.filter(bool), st.just([]), st.just(0)),
    st.tuples(st.just("find"), CONVERSATION, PROMPT, st.integers(0, 3)),
    st.tuples(st.just("whole"), CONVERSATION, PROMPT, st.integers(0, 3)),
    st.tuples(st.just("forget"), CONVERSATION, st.just([]), st.just(0)),
    st.tuples(st.just("wait"), st.none(), st.just([]), st.integers(1, 40)),
    st.tuples(st.just("restart"), st.none(), st.just([]), st.just(0)),
    st.tuples(st.just("crash"), st.none(), st.just([]), st.just(0)),
)
Step = tuple[str, str | None, list[int], int]


def _tail(step: Step) -> list[int] | None:
    """What was said after the tokens of a step that puts: nothing, one token, or not to be continued."""
    return (None, [], [5])[step[3] % 3]


class Entry(NamedTuple):
    owner: str | None
    tokens: list[int]
    payload: bytes
    tail: list[int] | None
    used: int


class Naive:
    """Keeps everything, and looks at everything."""

    MAX_AGE = 60

    def __init__(self) -> None:
        self.now = 0
        self.kept: list[Entry] = []

    def put(
        self, conversation_id: str | None, tokens: list[int], payload: bytes, tail: list[int] | None
    ) -> None:
        self.kept = [
            entry
            for entry in self.kept
            if not (entry.owner == conversation_id and conversation_id is not None)
            and not (entry.owner is None and tokens[: len(entry.tokens)] == entry.tokens)
        ]
        self.kept.append(Entry(conversation_id, tokens, payload, tail, self.now))

    def supersede(self, conversation_id: str) -> None:
        self.kept = [
            entry._replace(tail=None) if entry.owner == conversation_id else entry for entry in self.kept
        ]

    def tokens_of(self, conversation_id: str) -> list[int] | None:
        for entry in self.kept:
            if entry.owner == conversation_id and entry.tail is not None:
                return entry.tokens + entry.tail
        return None

    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.kept = [entry for entry in self.kept if self.now - entry.used <= self.MAX_AGE]

    def restart(self) -> None:
        self.kept = [entry for entry in self.kept if entry.owner is not None]

    def find(
        self, prompt: list[int], conversation_id: str | None, at_least: int, whole: bool
    ) -> tuple[int, bytes] | None:
        candidates = []
        for order, entry in enumerate(self.kept):
            common = _common(entry.tokens, prompt)
            if common >= max(1, at_least) and not (whole and common < len(entry.tokens)):
                own = conversation_id is not None and entry.owner == conversation_id
                candidates.append((common, own, order))
        if not candidates:
            return None
        common, _, order = max(candidates)
        entry = self.kept.pop(order)
        self.kept.append(entry._replace(used=self.now))
        return common, entry.payload

    def forget(self, conversation_id: str | None) -> list[int]:
        gone = [entry for entry in self.kept if conversation_id in (None, entry.owner)]
        self.kept = [entry for entry in self.kept if entry not in gone]
        return [len(entry.tokens) for entry in gone]


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _find(store: Snapshots, step: Step) -> tuple[int, Payload | None] | None:
    what, conversation_id, prompt, at_least = step
    found = store.find(prompt, conversation_id, at_least=at_least, whole=what == "whole")
    return None if found is None else (found.tokens, store.load(found))


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(STEP, max_size=25))
def test_with_room_for_all_it_finds_what_one_finds_who_looks_at_everything(
    in_memory: bool, steps: list[Step]
) -> None:
    time, naive = Time(), Naive()
    with tempfile.TemporaryDirectory() as name:
        directory = None if in_memory else Path(name)
        crashed: list[Snapshots] = []
        store = snapshots(directory, time=time, max_age_seconds=naive.MAX_AGE)
        for number, step in enumerate(steps):
            time.pass_by(1)
            naive.wait(1)
            what, conversation_id, tokens, amount = step
            if what == "put":
                payload = bytes([number]) * amount
                store.put(conversation_id, tokens, payload, tail=_tail(step))
                naive.put(conversation_id, tokens, payload, _tail(step))
            elif what == "supersede" and conversation_id is not None:
                store.supersede(conversation_id)
                naive.supersede(conversation_id)
            elif what in ("find", "whole"):
                expected = naive.find(tokens, conversation_id, amount, what == "whole")
                assert _find(store, step) == expected
            elif what == "forget":
                forgotten = store.forget(conversation_id)
                assert [each.count for each in forgotten] == naive.forget(conversation_id)
            elif what == "wait":
                time.pass_by(amount)
                naive.wait(amount)
            elif directory is not None:
                # What is on disk by then is left as it is by a crash, and by a close too.
                assert store.flush(PATIENCE)
                if what == "restart":
                    store.close(PATIENCE)
                crashed.append(store)
                store = snapshots(directory, time=time, max_age_seconds=naive.MAX_AGE)
                naive.restart()
                assert len(store) == len(naive.kept)
            for owner in ("a", "b", "c"):
                assert store.tokens_of(owner) == naive.tokens_of(owner)
        for each in (store, *crashed):
            each.close(PATIENCE)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(0, 1500),
    st.integers(1, 4),
    st.booleans(),
    st.lists(STEP, max_size=30),
)
def test_within_any_budget_it_keeps_to_it_and_finds_only_what_was_put_last_and_not_forgotten(
    memory_bytes: int, disk_bytes: int, max_conversations: int, hurried: bool, steps: list[Step]
) -> None:
    time, naive = Time(), Naive()

    def opened() -> Snapshots:
        return snapshots(
            Path(name),
            time=time,
            memory_bytes=memory_bytes,
            disk_bytes=disk_bytes,
            max_conversations=max_conversations,
            max_age_seconds=naive.MAX_AGE,
        )

    with tempfile.TemporaryDirectory() as name:
        store = opened()
        for number, step in enumerate(steps):
            time.pass_by(1)
            naive.wait(1)
            what, conversation_id, tokens, amount = step
            if what == "put":
                payload = bytes([number]) * amount
                store.put(conversation_id, tokens, payload, tail=_tail(step))
                naive.put(conversation_id, tokens, payload, _tail(step))
            elif what == "supersede" and conversation_id is not None:
                store.supersede(conversation_id)
                naive.supersede(conversation_id)
            elif what in ("find", "whole"):
                if (found := _find(store, step)) is not None and found[1] is not None:
                    assert any(
                        entry.payload == found[1] and _common(entry.tokens, tokens) == found[0]
                        for entry in naive.kept
                    )
                    naive.kept = [
                        entry._replace(used=naive.now) if entry.payload == found[1] else entry
                        for entry in naive.kept
                    ]
            elif what == "forget":
                naive.forget(conversation_id)
                store.forget(conversation_id)
            elif what == "wait":
                time.pass_by(amount)
                naive.wait(amount)
            else:
                store.close(PATIENCE)
                store = opened()
            assert store.memory_used <= memory_bytes
            assert store.disk_used <= disk_bytes
            assert len(store) <= max_conversations
            for owner in ("a", "b", "c"):
                assert store.tokens_of(owner) in (None, naive.tokens_of(owner))
            if not hurried:
                assert store.flush(PATIENCE)
                on_disk = sum(path.stat().st_size for path in files(Path(name)))
                assert on_disk == store.disk_used <= disk_bytes
        store.close(PATIENCE)


@pytest.mark.parametrize("differing", [0, 1, 2047, 3998, 3999, None])
def test_the_common_beginning_of_long_prompts_is_told_to_the_token(differing: int | None) -> None:
    store = snapshots()
    tokens = list(range(4000))
    store.put("a", tokens, b"a")
    prompt = [*tokens, 1]
    if differing is not None:
        prompt[differing] = -1
    found = store.find(prompt, None)
    assert (0 if found is None else found.tokens) == (4000 if differing is None else differing)
