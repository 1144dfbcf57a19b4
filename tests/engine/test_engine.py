"""Many generations at once: each gets its own answer, none starves and nothing leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.engine import Engine
from suite.engine.generation import Generation, Order
from suite.engine.sampler import Sampling
from suite.engine.slots import Slots
from suite.engine.snapshots import Snapshots
from suite.errors import SuiteError
from suite.identity import new_id, utc_now
from suite.messages.events import Outcome
from suite.messages.logprobs import TokenLogprobs
from support.backend import END, FakeBackend, successor


@dataclass
class Heard:
    """A listener that keeps what it is told, and takes nothing after the end."""

    text: str = ""
    ends: int = 0
    error: SuiteError | None = None

    def piece(self, text: str, logprobs: TokenLogprobs | None = None) -> None:
        assert not self.ends and logprobs is None
        self.text += text

    def ended(self, error: SuiteError | None) -> None:
        self.ends += 1
        self.error = error

    @property
    def tokens(self) -> list[int]:
        return [int(word) for word in self.text.split()]


@dataclass
class Asked:
    generation: Generation
    heard: Heard = field(default_factory=Heard)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sampling(seed: int = 1) -> Sampling:
    return Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, seed=seed)


def asked(
    prompt: Sequence[int],
    *,
    max_tokens: int = 8,
    seed: int = 1,
    conversation: str | None = None,
    priority: int = 0,
    deadline: float | None = None,
    continues: bool = False,
    clock: Clock | None = None,
) -> Asked:
    order = Order(
        prompt=list(prompt),
        max_tokens=max_tokens,
        stop=(),
        sampling=sampling(seed),
        conversation_id=conversation,
        priority=priority,
        deadline=deadline,
        continues=continues,
    )
    return Asked(Generation(order, clock or Clock()))


def alone(prompt: Sequence[int], max_tokens: int, seed: int, context: int) -> tuple[list[int], Outcome]:
    """The answer, by the plainest loop."""
    tokens, answer = list(prompt), list[int]()
    while True:
        token = successor(tokens, seed)
        if token == END:
            return answer, "stop"
        answer.append(token)
        if len(answer) >= max_tokens:
            return answer, "length"
        if len(tokens) >= context:
            return answer, "context_full"
        tokens.append(token)


def drain(engine: Engine, limit: int = 10_000) -> None:
    for _ in range(limit):
        if not engine.busy:
            return
        engine.step()
    pytest.fail("it does not come to an end")


prompts = st.lists(st.integers(1, 4), min_size=1, max_size=40)


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, Asked, int | None]]:
    """Generations, each with the step before which it comes and that before which it is cancelled."""
    result = []
    for _ in range(draw(st.integers(1, 12))):
        each = asked(
            draw(prompts),
            max_tokens=draw(st.integers(1, 20)),
            seed=draw(st.integers(0, 3)),
            conversation=draw(st.sampled_from([None, "a", "b", "c"])),
            priority=draw(st.integers(-1, 1)),
        )
        cancelled = draw(st.one_of(st.none(), st.none(), st.integers(0, 60)))
        result.append((draw(st.integers(0, 30)), each, cancelled))
    return result


@settings(max_examples=100, deadline=None)
@given(
    arrivals(),
    st.integers(1, 4),
    st.integers(60, 160),
    st.integers(4, 16),
    st.booleans(),
    st.sets(st.integers(0, 40), max_size=2),
    st.sets(st.integers(0, 60), max_size=2),
)
def test_each_gets_its_own_answer_once(
    plan: list[tuple[int, Asked, int | None]],
    slots: int,
    cache: int,
    batch: int,
    can_share: bool,
    failures: set[int],
    clears: set[int],
) -> None:
    backend = FakeBackend(slots=slots, context=60, cache=cache, batch=batch, can_share=can_share)
    engine = Engine(backend, Slots(slots, can_share=can_share), prompt_step_tokens=3)
    number = 0
    while number <= 60 or engine.busy:
        assert number < 5000, "it does not come to an end"
        for begin, each, cancelled in plan:
            if begin == number:
                engine.submit(each.generation, each.heard)
            if cancelled is not None and begin <= number == begin + cancelled:
                each.generation.cancel("cancelled")
        if number in failures:
            backend.failing = True
        if number in clears:
            engine.clear(None)
        engine.step()
        number += 1
    backend.failing = False
    assert backend.sources == 0
    for _, each, cancelled in plan:
        order, heard = each.generation.order, each.heard
        expected, outcome = alone(order.prompt, order.max_tokens, order.sampling.seed, 60)
        assert heard.ends == 1
        assert each.generation.outcome is not None and each.generation.ended is not None
        if heard.error is not None:
            assert failures and each.generation.outcome == "failed"
            assert heard.tokens == expected[: len(heard.tokens)]
        elif each.generation.outcome == "cancelled":
            assert cancelled is not None
            assert heard.tokens == expected[: len(heard.tokens)]
        else:
            assert heard.tokens == expected
            assert each.generation.outcome == outcome
            assert each.generation.completion_tokens == len(expected)
        assert each.generation.reused_tokens < max(1, len(order.prompt))
    follow = asked([1, 2, 3], max_tokens=4)
    engine.submit(follow.generation, follow.heard)
    drain(engine)
    assert follow.heard.tokens == alone([1, 2, 3], 4, 1, 60)[0]


def engine_of(
    *, slots: int = 4, cache: int = 400, batch: int = 16, prompt_step_tokens: int = 4
) -> tuple[Engine, FakeBackend]:
    backend = FakeBackend(slots=slots, context=100, cache=cache, batch=batch)
    return Engine(backend, Slots(slots), prompt_step_tokens=prompt_step_tokens), backend


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

        def ended(self, error: SuiteError | None) -> None:
            assert error is None
            order.append(self.name)

    for name, priority in (("now", 0), ("later", 0), ("last", -1), ("first", 5)):
        engine.submit(asked([1], max_tokens=2, priority=priority).generation, Named(name))
        if name == "now":
            engine.step()
    drain(engine)
    assert order == ["now", "first", "later", "last"]


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
    held = [1, 2, 3, 4, *first.heard.tokens][: len([1, 2, 3, 4, *first.heard.tokens]) - 1]
    assert turn.heard.tokens == alone([*held, 2, 2], 3, 5, 100)[0]
    assert turn.generation.reused_tokens == len(held)
    assert turn.generation.prompt_tokens == len(held) + 2
    gone = asked([2], conversation="unknown", continues=True)
    engine.submit(gone.generation, gone.heard)
    drain(engine)
    assert gone.heard.error is not None and gone.heard.error.code == "conversation_gone"
    assert backend.sources == 0


def test_a_full_cache_makes_the_newest_wait_and_loses_no_token() -> None:
    engine, backend = engine_of(slots=3, cache=60)
    every = [asked([number, 1, 2], max_tokens=40, seed=5) for number in (1, 2, 3)]
    for each in every:
        engine.submit(each.generation, each.heard)
    drain(engine)
    for each in every:
        expected, outcome = alone(each.generation.order.prompt, 40, 5, 100)
        assert each.heard.tokens == expected and each.generation.outcome == outcome
    assert backend.sources == 0


# --- conversations that leave their slot -----------------------------------------------------------------


def kept(directory: Path | None = None) -> Snapshots:
    return Snapshots(
        directory=directory,
        key="model",
        memory_bytes=1 << 20,
        disk_bytes=1 << 20,
        now=utc_now,
        new_id=new_id,
    )


def with_snapshots(
    snapshots: Snapshots, *, slots: int = 2, can_share: bool = True
) -> tuple[Engine, FakeBackend]:
    backend = FakeBackend(slots=slots, context=200, cache=2000, can_share=can_share)
    engine = Engine(backend, Slots(slots, can_share=can_share), prompt_step_tokens=8, snapshots=snapshots)
    return engine, backend


def turn(engine: Engine, prompt: Sequence[int], conversation: str, *, continues: bool = False) -> Asked:
    each = asked(prompt, max_tokens=5, seed=5, conversation=conversation, continues=continues)
    engine.submit(each.generation, each.heard)
    drain(engine)
    return each


@pytest.mark.parametrize("can_share", [True, False])
def test_conversations_beyond_the_slots_are_not_decoded_again(can_share: bool) -> None:
    engine, backend = with_snapshots(kept(), can_share=can_share)
    chats = {f"c{number}": [number % 4 + 1] * 30 + [number] for number in range(12)}
    for round in range(3):
        for conversation, chat in chats.items():
            decoded = sum(len(part.tokens) for batch in backend.batches for part in batch)
            each = turn(engine, chat, conversation)
            assert each.heard.tokens == alone(chat, 5, 5, 200)[0]
            held = len(chat) - len(each.heard.tokens) if round else 0
            decoded = sum(len(part.tokens) for batch in backend.batches for part in batch) - decoded
            assert each.generation.reused_tokens + decoded == len(chat) + max(
                0, each.generation.completion_tokens - (each.generation.outcome == "length")
            )
            if round:
                assert each.generation.reused_tokens >= held - 10
            chats[conversation] = [*chat, *each.heard.tokens, 3, 3]


def test_conversations_survive_the_process(tmp_path: Path) -> None:
    snapshots = kept(tmp_path)
    engine, _ = with_snapshots(snapshots)
    chat = list(range(1, 60))
    first = turn(engine, chat, "c")
    engine.park(10)
    engine, _ = with_snapshots(kept(tmp_path))
    second = turn(engine, [*chat, *first.heard.tokens, 1, 2], "c")
    assert second.generation.reused_tokens >= len(chat)
    assert second.heard.tokens == alone([*chat, *first.heard.tokens, 1, 2], 5, 5, 200)[0]
    engine.park(10)
    engine, _ = with_snapshots(kept(tmp_path))
    third = turn(engine, [4], "c", continues=True)
    assert third.heard.error is None and third.generation.reused_tokens >= len(chat)


def test_what_is_forgotten_comes_back_from_no_snapshot(tmp_path: Path) -> None:
    engine, _ = with_snapshots(kept(tmp_path))
    chat = list(range(1, 60))
    turn(engine, chat, "c")
    while engine.rest():
        pass
    assert engine.clear("c").conversations == 1
    assert turn(engine, chat, "c").generation.reused_tokens == 0


def test_a_snapshot_that_cannot_be_read_is_decoded_again(tmp_path: Path) -> None:
    engine, _ = with_snapshots(kept(tmp_path))
    chat = list(range(1, 60))
    turn(engine, chat, "c")
    engine.park(10)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"!")
    engine, _ = with_snapshots(kept(tmp_path))
    again = turn(engine, chat, "c")
    assert again.heard.tokens == alone(chat, 5, 5, 200)[0]
    assert again.generation.reused_tokens == 0
