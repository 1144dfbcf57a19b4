"""Many generations at once: each gets its own answer, none starves and nothing leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.engine import Engine
from suite.engine.slots import Slots
from suite.engine.snapshots.snapshots import Snapshots
from suite.engine.speculation import Speculation
from suite.engine.text import visible_tokens
from suite.errors import ConversationGone, GenerationFailed, SuiteError
from suite.identity import new_id, utc_now
from support.backend import FakeBackend, FakeTokenizer
from support.drafts import Eager, KnowingDrafter
from support.generations import Asked, Clock, Heard, alone, asked, code, drain

prompts = st.lists(st.integers(1, 4), min_size=1, max_size=40)


@dataclass
class Arrival:
    """A generation, the step before which it comes and that many steps later is cancelled."""

    step: int
    asked: Asked
    cancelled_after: int | None


@st.composite
def arrivals(draw: st.DrawFn) -> list[Arrival]:
    result = []
    for _ in range(draw(st.integers(1, 12))):
        each = asked(
            draw(prompts),
            max_tokens=draw(st.integers(0, 20)),
            seed=draw(st.integers(0, 3)),
            conversation=draw(st.sampled_from([None, "a", "b", "c"])),
            priority=draw(st.integers(-1, 1)),
            prompt_logprobs=draw(st.sampled_from([None, None, None, 2])),
        )
        cancelled = draw(st.one_of(st.none(), st.none(), st.integers(0, 60)))
        result.append(Arrival(draw(st.integers(0, 30)), each, cancelled))
    return result


def check(backend: FakeBackend, slots: Slots) -> None:
    """What is believed of each slot is what is there."""
    for slot in slots:
        assert backend.sequences[slot.sequence] == slot.tokens
        assert slot.tokens or slot.generating or slot.conversation_id is None


@settings(max_examples=150, deadline=None)
@given(
    arrivals(),
    st.integers(1, 4),
    st.integers(60, 160),
    st.integers(4, 16),
    st.sampled_from(["whole", "window", "recurrent"]),
    st.sets(st.integers(0, 40), max_size=2),
    st.dictionaries(st.integers(0, 60), st.sampled_from([None, "a", "b"]), max_size=2),
    st.integers(0, 3000),
    st.sampled_from([None, 0.0, 0.5]),
    st.sampled_from([None, 1, 2, 5]),
)
def test_each_gets_its_own_answer_once(
    plan: list[Arrival],
    count: int,
    cache: int,
    batch: int,
    kind: str,
    failures: set[int],
    clears: dict[int, str | None],
    memory_bytes: int,
    exchange_steps: float | None,
    wrong_every: int | None,
) -> None:
    """In a unified cache, and in a separate one where it costs something, or nothing, to change places.

    Without speculation, and with guesses of which one in so many is wrong.
    """
    backend = FakeBackend(
        separate=exchange_steps is not None,
        exchange_steps=exchange_steps or 0.0,
        slots=count,
        context=60,
        cache=cache,
        batch=batch,
        can_share=kind != "recurrent",
        window=kind == "window",
    )
    slots = Slots(count, can_share=backend.can_share)
    drafter = KnowingDrafter(wrong_every or 1)
    engine = Engine(
        backend,
        slots,
        prompt_step_tokens=3,
        snapshots=kept(memory_bytes=memory_bytes),
        speculation=None if wrong_every is None else Speculation(backend, drafter, Eager()),
    )
    number = 0
    while number <= 60 or engine.busy:
        assert number < 5000, "it does not come to an end"
        over = []
        for each in plan:
            if each.step == number:
                engine.submit(each.asked.generation, each.asked.heard)
            if each.cancelled_after is not None and each.step <= number == each.step + each.cancelled_after:
                each.asked.generation.cancel("cancelled")
                over.append(each.asked)
        backend.failing = number in failures
        if number in clears:
            engine.clear(clears[number])
        engine.step()
        assert all(each.heard.ends == 1 for each in over), "what is cancelled ends with the next step"
        check(backend, slots)
        at_work = sum(
            each.asked.generation.started_at is not None and not each.asked.heard.ends for each in plan
        )
        assert sum(slot.generating for slot in slots) <= at_work
        number += 1
    backend.failing = False
    assert backend.open_samplers == 0 and not drafter.known
    assert not any(slot.generating for slot in slots)
    for each in plan:
        generation, heard = each.asked.generation, each.asked.heard
        order = generation.request
        expected, outcome = alone(order.prompt, order.max_tokens, order.sampling.seed, 60)
        assert heard.ends == 1
        assert generation.outcome is not None and generation.ended_at is not None
        if heard.error is not None:
            assert failures and generation.outcome == "failed"
            assert heard.tokens == expected[: len(heard.tokens)]
        elif generation.outcome == "cancelled":
            assert each.cancelled_after is not None
            assert heard.tokens == expected[: len(heard.tokens)]
        else:
            assert heard.tokens == expected
            assert generation.outcome == outcome
            assert generation.completion_tokens == len(expected)
            if order.prompt_logprobs is not None:
                assert generation.reused_tokens == 0
                assert [each.id for each in generation.prompt_logprobs] == order.prompt
                assert [each.token for each in generation.prompt_logprobs] == [
                    repr(order.prompt[:count]) if count else "" for count in range(len(order.prompt))
                ]
        assert generation.reused_tokens < max(1, len(order.prompt))
    follow = asked([1, 2, 3], max_tokens=4)
    engine.submit(follow.generation, follow.heard)
    drain(engine)
    assert follow.heard.tokens == alone([1, 2, 3], 4, 1, 60)[0]


def engine_of(
    *, slots: int = 4, cache: int = 400, batch: int = 16, prompt_step_tokens: int = 4
) -> tuple[Engine, FakeBackend]:
    backend = FakeBackend(slots=slots, context=100, cache=cache, batch=batch)
    return Engine(backend, Slots(slots), prompt_step_tokens=prompt_step_tokens), backend


def separate_engine(
    snapshots: Snapshots | None = None, *, slots: int = 4, window: bool = False
) -> tuple[Engine, FakeBackend, Slots]:
    """An engine whose sequences change places whenever that closes a gap."""
    backend = FakeBackend(
        slots=slots, context=200, cache=0, window=window, separate=True, exchange_steps=0.01
    )
    held = Slots(slots)
    return Engine(backend, held, prompt_step_tokens=4, snapshots=snapshots), backend, held


def begin(engine: Engine, prompt: Sequence[int], *, max_tokens: int, conversation: str) -> Asked:
    each = asked(prompt, max_tokens=max_tokens, seed=5, conversation=conversation)
    engine.submit(each.generation, each.heard)
    return each


def test_a_gap_is_closed_and_everyone_keeps_what_they_have() -> None:
    engine, backend, slots = separate_engine(kept())
    lengths = {"a": 30, "b": 2, "c": 30, "d": 30}
    chats = {name: [number + 1, 3, 4] for number, name in enumerate(lengths)}
    every = {
        name: begin(engine, chat, max_tokens=lengths[name], conversation=name) for name, chat in chats.items()
    }
    while not every["b"].heard.ends:
        engine.step()
    assert [slot.sequence for slot in slots] == [0, 1, 2, 3]
    engine.clear("a")
    engine.step()
    assert {entry.sequence for entry in backend.batches[-1]} in ({0, 1, 2}, {1, 2, 3})
    check(backend, slots)
    moved = [slot for number, slot in enumerate(slots) if slot.sequence != number]
    assert {slot.conversation_id for slot in moved} > {"b"}, "the one that runs and the idle one"
    drain(engine)
    for name, each in every.items():
        assert each.heard.tokens == alone(chats[name], lengths[name], 5, 200)[0]
    for name, each in every.items():
        again = begin(engine, [*chats[name], *each.heard.tokens, 3], max_tokens=2, conversation=name)
        drain(engine)
        assert (again.generation.reused_tokens >= len(chats[name])) == (name != "a"), "a was forgotten"
    check(backend, slots)


def test_a_new_generation_gets_a_slot_next_to_those_that_run() -> None:
    engine, backend, slots = separate_engine(slots=6)
    first, second, third = (
        begin(engine, [number, 2], max_tokens=60, conversation=f"c{number}") for number in (1, 2, 3)
    )
    for _ in range(4):
        engine.step()
    for each in (first, second):
        each.generation.cancel("cancelled")
    engine.clear("c1")
    engine.clear("c2")
    engine.step()
    begin(engine, [4, 2], max_tokens=60, conversation="c4")
    engine.step()
    running = sorted(slot.sequence for slot in slots if slot.generating)
    assert running[1] == running[0] + 1 and not backend.moved
    third.generation.cancel("cancelled")
    drain(engine)


def test_without_memory_to_move_or_copy_a_sequence_everyone_gets_their_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: int) -> None:
        raise MemoryError

    engine, backend, slots = separate_engine()
    monkeypatch.setattr(backend, "exchange", fail)
    monkeypatch.setattr(backend, "copy_prefix", fail)
    lengths = {"a": 20, "b": 2, "c": 20}
    every = {name: begin(engine, [1, 3, 4], max_tokens=lengths[name], conversation=name) for name in lengths}
    drain(engine)
    for name, each in every.items():
        assert each.heard.tokens == alone([1, 3, 4], lengths[name], 5, 200)[0]
    check(backend, slots)


def test_generations_whose_sequences_are_lost_in_a_move_fail_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine, backend, slots = separate_engine()
    first, second, third = (
        begin(engine, [number, 2], max_tokens=60, conversation=f"c{number}") for number in (1, 2, 3)
    )
    engine.step()
    backend.unable["exchange"] = GenerationFailed("it cannot be moved")
    second.generation.cancel("cancelled")
    drain(engine)
    ends = [code(each) for each in (first, third)]
    assert sorted(ends, key=str) == [None, "generation_failed"]
    assert "it cannot be moved" in caplog.text
    check(backend, slots)
    unharmed = first if code(first) is None else third
    request = unharmed.generation.request
    assert unharmed.heard.tokens == alone(request.prompt, 60, request.sampling.seed, 200)[0]
    assert backend.open_samplers == 0


@pytest.mark.parametrize("error", [MemoryError(), GenerationFailed("it cannot be saved")])
def test_a_conversation_that_cannot_be_saved_is_told_of_and_ends_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    engine, backend = with_snapshots(kept())
    backend.unable["save"] = error
    for conversation in ("a", "b", "c"):  # the third one takes the slot of the first
        each = turn(engine, [1, 2, 3], conversation)
        assert each.heard.tokens == alone([1, 2, 3], 5, 5, 200)[0]
    assert caplog.text.count("get no snapshot") == 1
    while engine.snapshot_idle():
        pass
    engine.snapshot_all(1)
    assert caplog.text.count("get no snapshot") == 3


def test_a_little_is_not_copied_from_a_long_sequence_where_all_of_it_would_be() -> None:
    for separate, reused in ((True, [0, 0, 20]), (False, [1, 15, 20])):
        backend = FakeBackend(slots=4, context=2000, cache=8000, batch=500, separate=separate)
        engine = Engine(backend, Slots(4), prompt_step_tokens=8)
        turn(engine, list(range(1, 1201)), "long")
        others = [turn(engine, [*range(1, 1 + shared), 7, 7], f"c{shared}") for shared in (1, 15, 20)]
        assert [each.generation.reused_tokens for each in others] == reused
    backend = FakeBackend(slots=2, context=2000, cache=0, batch=500, separate=True)
    engine = Engine(backend, Slots(2), prompt_step_tokens=8)
    turn(engine, list(range(1, 1901)), "long")
    assert turn(engine, [*range(1, 29), 7, 7], "c").generation.reused_tokens == 0


def test_in_a_separate_cache_idle_conversations_take_no_room_of_others() -> None:
    engine, backend, slots = separate_engine(kept(), slots=3)
    for name in ("a", "b", "c", "d"):
        begin(engine, [*range(1, 181)], max_tokens=5, conversation=name)
        drain(engine)
    assert sum(len(slot.tokens) > 180 for slot in slots) == 3, "three whole contexts at once"
    restored = begin(engine, [*range(1, 181), 7], max_tokens=5, conversation="a")
    drain(engine)
    assert restored.generation.reused_tokens == 180
    check(backend, slots)


def test_a_new_generation_joins_between_two_steps() -> None:
    engine, backend = engine_of()
    first, second = asked([1, 1], max_tokens=50, seed=5), asked([2, 2], max_tokens=50, seed=5)
    engine.submit(first.generation, first.heard)
    engine.step()
    engine.step()
    engine.submit(second.generation, second.heard)
    engine.step()
    assert [len(part.tokens) for part in backend.batches[-1]] == [1, 2]
    engine.step()
    assert [len(part.tokens) for part in backend.batches[-1]] == [1, 1]


def test_a_long_prompt_does_not_stall_what_runs() -> None:
    engine, backend = engine_of()
    running, long = asked([1], max_tokens=60, seed=5), asked([3] * 40, max_tokens=1)
    engine.submit(running.generation, running.heard)
    engine.step()
    engine.submit(long.generation, long.heard)
    while not long.heard.ends:
        before = running.generation.completion_tokens
        engine.step()
        assert running.generation.completion_tokens == before + 1
        assert sum(len(part.tokens) for part in backend.batches[-1]) <= 5


def test_alone_a_prompt_takes_whole_batches() -> None:
    engine, backend = engine_of()
    each = asked([3] * 40, max_tokens=1)
    engine.submit(each.generation, each.heard)
    drain(engine)
    assert [sum(len(part.tokens) for part in batch) for batch in backend.batches] == [16, 16, 8]


def test_higher_priorities_go_first_and_then_who_came_first() -> None:
    engine, _ = engine_of(slots=1)
    order: list[str] = []

    class Named(Heard):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def on_end(self, error: SuiteError | None) -> None:
            assert error is None
            order.append(self.name)

    for name, priority in (("now", 0), ("later", 0), ("last", -1), ("first", 5)):
        engine.submit(asked([1], max_tokens=2, priority=priority).generation, Named(name))
        if name == "now":
            engine.step()
    drain(engine)
    assert order == ["now", "first", "later", "last"]


def test_no_priority_makes_others_wait_for_ever() -> None:
    clock = Clock()
    backend = FakeBackend(slots=1, context=100, cache=400)
    engine = Engine(backend, Slots(1), prompt_step_tokens=4, clock=clock)
    patient = asked([1], max_tokens=2, seed=5)
    for number in range(80):
        important = asked([2], max_tokens=2, seed=5, priority=3)
        engine.submit(important.generation, important.heard)
        if number == 1:
            engine.submit(patient.generation, patient.heard)
        engine.step()
        clock.now += 1
    assert patient.heard.ends == 1


def test_a_deadline_ends_what_runs_and_what_waits() -> None:
    engine, _ = engine_of(slots=1)
    clock = Clock()
    running = asked([1], max_tokens=90, seed=5, deadline=5.0, clock=clock)
    waiting = asked([2], max_tokens=90, deadline=5.0, clock=clock)
    for each in (running, waiting):
        engine.submit(each.generation, each.heard)
    engine.step()
    clock.now = 5.0
    engine.step()
    assert running.generation.outcome == waiting.generation.outcome == "deadline"
    assert len(running.heard.tokens) == 1 and waiting.heard.tokens == []
    assert not engine.busy


def test_a_conversation_that_goes_on_reuses_its_tokens() -> None:
    engine, _ = engine_of()
    first = asked([1, 2, 3, 4], max_tokens=3, seed=5, conversation="c")
    engine.submit(first.generation, first.heard)
    drain(engine)
    turn = [1, 2, 3, 4, *first.heard.tokens, 4, 4]
    second = asked(turn, max_tokens=3, seed=5, conversation="c")
    engine.submit(second.generation, second.heard)
    drain(engine)
    assert second.generation.reused_tokens >= 4 + len(first.heard.tokens) - 1
    assert second.heard.tokens == alone(turn, 3, 5, 100)[0]


def test_a_new_turn_alone_continues_what_the_conversation_holds() -> None:
    engine, backend = engine_of()
    first = asked([1, 2, 3, 4], max_tokens=3, seed=5, conversation="c")
    engine.submit(first.generation, first.heard)
    engine.step()
    turn = asked([2, 2], max_tokens=3, seed=5, conversation="c", continues=True)
    engine.submit(turn.generation, turn.heard)  # waits for the one before
    drain(engine)
    assert first.generation.outcome == "length"
    whole = [1, 2, 3, 4, *first.heard.tokens, 2, 2]
    assert turn.heard.tokens == alone(whole, 3, 5, 100)[0]
    assert turn.generation.reused_tokens == len(whole) - 3, (
        "all but the last token said, which was not decoded"
    )
    assert turn.generation.prompt_tokens == len(whole)
    gone = asked([2], conversation="unknown", continues=True)
    engine.submit(gone.generation, gone.heard)
    drain(engine)
    assert code(gone) == "conversation_gone"
    assert backend.open_samplers == 0


def test_prompts_are_fed_in_the_order_in_which_they_came() -> None:
    engine, backend = engine_of()
    every = [asked([number] * 20, max_tokens=50, seed=5) for number in (1, 2, 3)]
    for each in every:
        engine.submit(each.generation, each.heard)
    while len(backend.batches) < 4:
        engine.step()
    fed = [[(part.sequence, len(part.tokens)) for part in batch] for batch in backend.batches]
    # Two prompts that wait get twice as much of a step as one.
    assert fed == [[(0, 16)], [(0, 4), (1, 12)], [(0, 1), (1, 8)], [(0, 1), (1, 1), (2, 4)]]


def test_the_newest_makes_way_for_the_oldest() -> None:
    engine, backend = engine_of(slots=2, cache=60)
    oldest, newest = (asked([number] * 20, max_tokens=30, seed=7) for number in (1, 2))
    for each in (oldest, newest):
        engine.submit(each.generation, each.heard)
    while not oldest.heard.ends:
        engine.step()
        assert backend.sequences[0], "the oldest keeps its slot"
    assert not newest.heard.ends


def test_a_full_cache_makes_the_newest_wait_and_loses_no_token() -> None:
    engine, backend = engine_of(slots=3, cache=60)
    every = [asked([number, 1, 2], max_tokens=40, seed=5) for number in (1, 2, 3)]
    for each in every:
        engine.submit(each.generation, each.heard)
    drain(engine)
    for each in every:
        expected, outcome = alone(each.generation.request.prompt, 40, 5, 100)
        assert each.heard.tokens == expected and each.generation.outcome == outcome
    assert backend.open_samplers == 0


# --- conversations that leave their slot -----------------------------------------------------------------


def kept(directory: Path | None = None, *, memory_bytes: int = 1 << 20) -> Snapshots:
    return Snapshots(
        directory=directory,
        key="model",
        memory_bytes=memory_bytes,
        disk_bytes=1 << 20,
        now=utc_now,
        new_id=new_id,
    )


def with_snapshots(
    snapshots: Snapshots,
    *,
    slots: int = 2,
    cache: int = 2000,
    can_share: bool = True,
    window: bool = False,
    clock: Clock | None = None,
) -> tuple[Engine, FakeBackend]:
    backend = FakeBackend(slots=slots, context=200, cache=cache, can_share=can_share, window=window)
    engine = Engine(
        backend,
        Slots(slots, can_share=can_share),
        prompt_step_tokens=8,
        snapshots=snapshots,
        clock=clock or Clock(),
    )
    return engine, backend


def test_at_its_end_a_generation_tells_which_tokens_would_be_lost_with_the_process(tmp_path: Path) -> None:
    def unsaved(snapshots: Snapshots | None) -> list[int]:
        engine = Engine(
            FakeBackend(slots=2, context=200, cache=400), Slots(2), prompt_step_tokens=8, snapshots=snapshots
        )
        found = []
        for prompt, conversation in (([1] * 20, None), ([2] * 30, "chat")):
            each = asked(prompt, max_tokens=1, conversation=conversation)
            engine.submit(each.generation, each.heard)
            drain(engine)
            found.append(each.generation.unsaved_tokens)
        return found

    assert unsaved(None) == unsaved(kept()) == [20, 50]
    assert unsaved(kept(tmp_path)) == [20, 20]  # that of the chat will be in a file


def turn(
    engine: Engine, prompt: Sequence[int], conversation: str | None, *, continues: bool = False, seed: int = 5
) -> Asked:
    each = asked(prompt, max_tokens=5, seed=seed, conversation=conversation, continues=continues)
    engine.submit(each.generation, each.heard)
    drain(engine)
    return each


def test_a_conversation_goes_on_in_another_engine_and_only_there() -> None:
    here, _ = with_snapshots(kept())
    there, backend = with_snapshots(kept())
    story = [1, 2, 3] * 20
    first = turn(here, story, "chat")
    assert here.export("another") is None
    exported = here.export("chat")
    assert exported is not None and exported.saved.token_count > len(story)
    there.adopt(exported.saved)
    second = turn(there, [4], "chat", continues=True)
    assert second.heard.error is None
    assert second.generation.reused_tokens == exported.saved.token_count
    assert second.generation.prompt_tokens == len(story) + first.generation.completion_tokens + 1
    assert code(turn(here, [4], "chat", continues=True)) == ConversationGone.code

    # Back again: what is here of it is older, and is not gone on with.
    back = there.export("chat")
    assert back is not None
    here.adopt(back.saved)
    third = turn(here, [5], "chat", continues=True)
    assert third.generation.reused_tokens == back.saved.token_count > exported.saved.token_count
    assert backend.open_samplers == 0


@pytest.mark.parametrize(
    ("cache", "can_share", "window"),
    [(2000, True, False), (2000, False, False), (2000, True, True), (100, True, False), (100, True, True)],
)
def test_conversations_beyond_the_slots_are_not_decoded_again(
    cache: int, can_share: bool, window: bool
) -> None:
    engine, backend = with_snapshots(kept(), slots=3, cache=cache, can_share=can_share, window=window)
    chats = {f"c{number}": [number % 4 + 1] * 30 + [number] for number in range(12)}
    for round in range(3):
        for conversation, chat in chats.items():
            before = backend.decoded
            each = turn(engine, chat, conversation)
            assert each.heard.tokens == alone(chat, 5, 5, 200)[0]
            said = each.generation.completion_tokens - (each.generation.outcome == "length")
            assert each.generation.reused_tokens + backend.decoded - before == len(chat) + said
            if round:
                assert each.generation.reused_tokens >= len(chat) - 3, "the new turn, and what was said last"
            chats[conversation] = [*chat, *each.heard.tokens, 3, 3]


def test_where_nothing_can_be_cut_back_a_whole_snapshot_counts_more_than_a_longer_part() -> None:
    engine, _ = with_snapshots(kept(), slots=1, can_share=False)
    first = turn(engine, [1] * 40, "c")
    held = [*([1] * 40), *first.heard.tokens]
    turn(engine, [*held[:-1], *([2] * 20)], "d")  # takes the slot, and has all but the last token in common
    again = turn(engine, [*held, 3], "c")
    assert again.generation.reused_tokens == len(held) - 1


def test_chats_without_a_name_come_back_too() -> None:
    engine, _ = with_snapshots(kept())
    chats = [[number + 1] * 30 for number in range(5)]
    for chat in chats:
        turn(engine, chat, None)
    for chat in chats:
        assert turn(engine, [*chat, 9, 9], None).generation.reused_tokens >= len(chat)


def test_what_a_snapshot_cannot_give_the_slot_still_does() -> None:
    """A longer state than the cache has room for beside what runs is left where it is."""
    engine, backend = with_snapshots(kept(), slots=2, cache=150)
    chat = turn(engine, list(range(1, 91)), "c")
    held = [*range(1, 91), *chat.heard.tokens]
    turn(engine, list(range(1, 31)), "other")  # pushes nothing out
    runs = asked([7] * 40, max_tokens=30, seed=5)
    engine.submit(runs.generation, runs.heard)
    engine.step()
    again = asked([*held, 2], max_tokens=5, seed=5, conversation="c")
    engine.submit(again.generation, again.heard)
    drain(engine)
    assert again.heard.tokens == alone([*held, 2], 5, 5, 200)[0]
    assert again.generation.reused_tokens >= 30
    assert backend.open_samplers == 0


def test_conversations_survive_the_process(tmp_path: Path) -> None:
    snapshots = kept(tmp_path)
    engine, _ = with_snapshots(snapshots)
    chat = list(range(1, 60))
    first = turn(engine, chat, "c")
    engine.snapshot_all(10)
    engine, _ = with_snapshots(kept(tmp_path))
    second = turn(engine, [*chat, *first.heard.tokens, 1, 2], "c")
    assert second.generation.reused_tokens >= len(chat)
    assert second.heard.tokens == alone([*chat, *first.heard.tokens, 1, 2], 5, 5, 200)[0]
    engine.snapshot_all(10)
    engine, _ = with_snapshots(kept(tmp_path))
    third = turn(engine, [4], "c", continues=True)
    whole = [*chat, *first.heard.tokens, 1, 2, *second.heard.tokens, 4]
    assert third.heard.tokens == alone(whole, 5, 5, 200)[0]
    assert third.generation.reused_tokens >= len(whole) - 2


def test_idle_conversations_are_kept_while_others_run(tmp_path: Path) -> None:
    clock = Clock()
    snapshots = kept(tmp_path)
    engine, _ = with_snapshots(snapshots, clock=clock)
    first = turn(engine, list(range(1, 60)), "c")
    other = asked([2, 2], max_tokens=90, seed=5)
    engine.submit(other.generation, other.heard)
    engine.step()
    clock.now += 1
    engine.step()
    assert first.heard.ends == 1 and not other.heard.ends
    assert snapshots.flush(10)
    assert kept(tmp_path).tokens_of("c") == [*range(1, 60), *first.heard.tokens]


def test_a_generation_that_ends_before_its_first_token_leaves_nothing(tmp_path: Path) -> None:
    engine, backend = with_snapshots(kept(tmp_path))
    first = asked([1] * 40, max_tokens=5, seed=5, conversation="a")
    second = asked([2] * 40, max_tokens=5, seed=5, conversation="b")
    for each in (first, second):
        engine.submit(each.generation, each.heard)
    engine.step()
    assert second.generation.started_at is not None and not backend.sequences[1]
    for each in (second, first):
        each.generation.cancel("cancelled")
    drain(engine)
    rests = 0
    while engine.snapshot_idle():
        rests += 1
        assert rests <= 2, "it does not come to rest"


def test_what_is_forgotten_comes_back_from_no_snapshot(tmp_path: Path) -> None:
    engine, _ = with_snapshots(kept(tmp_path))
    chat = list(range(1, 60))
    turn(engine, chat, "c")
    while engine.snapshot_idle():
        pass
    assert engine.clear("c").conversations == 1
    assert turn(engine, chat, "c").generation.reused_tokens == 0


def test_what_waits_for_room_is_forgotten_too() -> None:
    backend = FakeBackend(slots=2, context=100, cache=60)
    engine = Engine(backend, Slots(2), prompt_step_tokens=8, snapshots=kept())
    first, second = (
        asked([number] * 20, max_tokens=30, seed=7, conversation=name)
        for number, name in ((1, "x"), (2, "y"))
    )
    for each in (first, second):
        engine.submit(each.generation, each.heard)
    while not backend.decoded > 55:
        engine.step()
    while backend.sequences[1]:  # until the newer one has made way
        engine.step()
    assert engine.clear("y").generating == 1
    drain(engine)
    assert second.heard.tokens == alone([2] * 20, 30, 7, 100)[0]
    assert turn(engine, [2] * 20, "y").generation.reused_tokens == 0


def test_a_snapshot_that_cannot_be_read_is_decoded_again(tmp_path: Path) -> None:
    engine, _ = with_snapshots(kept(tmp_path))
    chat = list(range(1, 60))
    turn(engine, chat, "c")
    engine.snapshot_all(10)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"!")
    engine, _ = with_snapshots(kept(tmp_path))
    again = turn(engine, chat, "c")
    assert again.heard.tokens == alone(chat, 5, 5, 200)[0]
    assert again.generation.reused_tokens == 0


# --- going on with what a conversation holds -------------------------------------------------------------


def test_what_a_stop_string_hid_is_not_gone_on_from() -> None:
    engine, backend = with_snapshots(kept())
    answer = alone([1, 2, 3, 4], 8, 5, 100)[0]
    hidden = f"{answer[3]} {answer[4]} {answer[5]}"
    first = asked([1, 2, 3, 4], max_tokens=8, seed=5, conversation="c", stop=(hidden,))
    engine.submit(first.generation, first.heard)
    drain(engine)
    assert (first.heard.tokens, first.generation.outcome) == (answer[:3], "stop")
    assert backend.sequences[0] == [1, 2, 3, 4, *answer[:3]]
    second = turn(engine, [2, 2], "c", continues=True)
    assert second.heard.tokens == alone([1, 2, 3, 4, *answer[:3], 2, 2], 5, 5, 200)[0]
    assert second.generation.prompt_tokens == 4 + 3 + 2


def test_a_prompt_that_may_not_reuse_is_decoded_whole() -> None:
    engine, backend = with_snapshots(kept())
    chat = list(range(1, 40))
    turn(engine, chat, "c")
    for conversation in ("c", "d", None):
        before = backend.decoded
        fresh = asked(chat, max_tokens=1, seed=5, conversation=conversation, reuse=False)
        engine.submit(fresh.generation, fresh.heard)
        drain(engine)
        assert fresh.generation.reused_tokens == 0
        assert backend.decoded - before == len(chat)
        assert fresh.heard.tokens == alone(chat, 1, 5, 200)[0]


def test_a_stop_string_inside_a_token_leaves_the_beginning_of_that_token() -> None:
    words = {1: b"one", 2: b" two", 3: b" th", 4: b"ree", 5: b"\xe2\x82", 6: b" t", 7: b"w"}

    class Words(FakeTokenizer):
        def visible_bytes(self, token: int) -> bytes:
            return words[token]

        def tokenize(self, text: str, *, begins: bool) -> list[int]:
            assert not begins
            return [6, 7] if text == " tw" else [1]

    assert visible_tokens([1, 2, 3, 4], b" three", Words()) == (2, [])
    assert visible_tokens([1, 2, 3, 4], b"o three", Words()) == (1, [6, 7])
    assert visible_tokens([1, 2, 3, 4], b"hree", Words()) is None, "no token for the rest"
    assert visible_tokens([1, 2, 5, 4], "\ufffdree".encode(), Words()) is None, "not the bytes that were said"


def test_a_turn_that_waits_for_a_slot_holds_the_conversation_once() -> None:
    engine, _ = with_snapshots(kept())
    first = turn(engine, [1, 2, 3, 4], "c")
    others = [asked([3, number], max_tokens=20, seed=5) for number in (1, 2)]
    for other in others:
        engine.submit(other.generation, other.heard)
    engine.step()
    second = turn(engine, [2, 2], "c", continues=True)
    whole = [1, 2, 3, 4, *first.heard.tokens, 2, 2]
    assert second.generation.prompt_tokens == len(whole)
    assert second.heard.tokens == alone(whole, 5, 5, 200)[0]


def test_a_turn_waits_for_the_one_before_it_wherever_that_is() -> None:
    engine, _ = with_snapshots(kept(), slots=1)
    running = asked([3, 3], max_tokens=20, seed=5)
    before = asked([1, 2], max_tokens=5, seed=5, conversation="c")
    for each in (running, before):
        engine.submit(each.generation, each.heard)
        engine.step()
    important = asked([4], max_tokens=5, seed=5, conversation="c", continues=True, priority=9)
    engine.submit(important.generation, important.heard)
    drain(engine)
    assert important.heard.tokens == alone([1, 2, *before.heard.tokens, 4], 5, 5, 200)[0]


def test_after_a_crash_nothing_goes_on_from_an_older_turn(tmp_path: Path) -> None:
    snapshots = kept(tmp_path)
    engine, _ = with_snapshots(snapshots)
    first = turn(engine, [1] * 40, "c")
    while engine.snapshot_idle():
        pass
    assert snapshots.flush(10)
    turn(engine, [2], "c", continues=True)
    engine, _ = with_snapshots(kept(tmp_path))  # what had no snapshot is lost
    assert code(turn(engine, [3], "c", continues=True)) == "conversation_gone"
    sent_whole = turn(engine, [*([1] * 40), *first.heard.tokens, 2, 3], "c")
    assert sent_whole.generation.reused_tokens >= 40


def test_nothing_goes_on_from_a_prompt_that_was_cut_off() -> None:
    engine, backend = with_snapshots(kept())
    turn(engine, [5] * 20, "c")
    cut_off = asked([6] * 100, max_tokens=5, seed=5, conversation="c")
    engine.submit(cut_off.generation, cut_off.heard)
    engine.step()
    cut_off.generation.cancel("cancelled")
    drain(engine)
    assert 0 < backend.length(0) < 100
    assert code(turn(engine, [1], "c", continues=True)) == "conversation_gone"
    turn(engine, [7] * 20, "other")
    turn(engine, [8] * 20, "another")
    assert code(turn(engine, [1], "c", continues=True)) == "conversation_gone"
    assert turn(engine, [6] * 100, "c").generation.reused_tokens > 0, "it still need not be decoded again"


def test_an_error_in_sampling_leaves_what_was_decoded() -> None:
    engine, backend = with_snapshots(kept())
    backend.refusing = {7}
    failed = turn(engine, [5] * 40, "c", seed=7)
    assert code(failed) == "invalid_grammar"
    assert turn(engine, [5] * 40, "c").generation.reused_tokens == 39


def test_a_stranger_with_the_same_beginning_takes_nothing_away() -> None:
    engine, _ = with_snapshots(kept())
    first = turn(engine, [1] * 40, "c")
    held = [*([1] * 40), *first.heard.tokens]
    stranger = turn(engine, [*held[:-1], 3, 3], None)
    assert stranger.generation.reused_tokens >= 40
    second = turn(engine, [2], "c", continues=True)
    assert second.heard.tokens == alone([*held, 2], 5, 5, 200)[0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["turn", "continue", "cancel", "rest", "park", "crash", "clear"]),
            st.sampled_from(["a", "b", "c", "d"]),
            st.integers(1, 30),
        ),
        max_size=25,
    ),
    st.sampled_from(["whole", "window", "recurrent"]),
    st.integers(210, 600),
)
def test_a_turn_goes_on_from_the_newest_state_or_not_at_all(
    deeds: list[tuple[str, str, int]], kind: str, cache: int
) -> None:
    with TemporaryDirectory() as directory:
        snapshots = kept(Path(directory))

        def engine_on(snapshots: Snapshots) -> Engine:
            return with_snapshots(
                snapshots, cache=cache, can_share=kind != "recurrent", window=kind == "window"
            )[0]

        engine = engine_on(snapshots)
        newest: dict[str, list[int] | None] = {}
        kept_names: set[str] = set()
        """Those that a crash does not take with it."""
        perhaps_gone: set[str] = set()
        for number, (deed, name, size) in enumerate(deeds):
            held, new = newest.get(name), [size % 7 + 1] * size
            if deed in ("turn", "continue", "cancel", "clear"):
                kept_names.discard(name)
            if deed == "turn":
                each = turn(engine, new, name)
                assert each.heard.tokens == alone(new, 5, 5, 200)[0]
                newest[name] = [*new, *each.heard.tokens]
                perhaps_gone.discard(name)
            elif deed == "continue":
                each = turn(engine, [number % 7 + 1], name, continues=True)
                if code(each) == "conversation_gone":
                    assert held is None or name in perhaps_gone
                    newest[name] = None
                elif code(each) == "prompt_too_long":
                    assert held is not None and len(held) + 1 >= 200
                else:
                    assert held is not None and code(each) is None
                    whole = [*held, number % 7 + 1]
                    assert each.heard.tokens == alone(whole, 5, 5, 200)[0]
                    newest[name] = [*whole, *each.heard.tokens]
                    perhaps_gone.discard(name)
            elif deed == "cancel":
                cut_off = asked([9] * 60, max_tokens=5, conversation=name)
                engine.submit(cut_off.generation, cut_off.heard)
                engine.step()
                cut_off.generation.cancel("cancelled")
                drain(engine)
                was_read = (
                    cut_off.generation.first_token_at is not None
                )  # what it shares may have been enough
                newest[name] = [*([9] * 60), *cut_off.heard.tokens] if was_read else None
                if was_read:
                    perhaps_gone.discard(name)
            elif deed == "clear":
                engine.clear(name)
                newest[name] = None
            elif deed == "rest":
                while engine.snapshot_idle():
                    pass
                assert snapshots.flush(10)
                kept_names |= newest.keys()
            else:
                if deed == "park":
                    engine.snapshot_all(10)
                    kept_names |= newest.keys()
                else:
                    snapshots.close()
                perhaps_gone |= newest.keys() - kept_names
                snapshots = kept(Path(directory))
                engine = engine_on(snapshots)
        snapshots.close()


def test_what_is_to_be_forgotten_is_reused_by_nobody() -> None:
    backend = FakeBackend(slots=2, context=60, cache=120)
    slots = Slots(2)
    engine = Engine(backend, slots, prompt_step_tokens=16)
    prompt = [1, 2, 3, 4] * 12
    for order in (asked(prompt, conversation="a"), asked(prompt, seed=2, is_forgotten=True)):
        engine.submit(order.generation, order.heard)
    drain(engine)
    assert backend.decoded < len(prompt) + 2 * 8, "it still follows whoever reads the same prompt"
    other = asked([*prompt, 9], conversation="b", max_tokens=1)
    engine.submit(other.generation, other.heard)
    engine.clear("a")
    drain(engine)
    assert other.generation.reused_tokens == 0
    engine.step()
    assert sorted(slot.conversation_id or "" for slot in slots) == ["", "b"]
