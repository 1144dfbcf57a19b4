"""What the benchmarks do where a run goes another way than it mostly does: no figure is lost or lopsided."""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

import harness
import models
import scale
import together
import users
from answers import Answer
from generate import bare_settings
from service import CONTEXT_TOKENS
from suite.catalogue.kv_cache import kv_cache
from suite.config import ModelSettings
from suite.engine.gguf.file import inspect
from suite.errors import Overloaded
from support.models import gemma, smollm2


class Timed(Answer):
    """An answer whose pieces came at these times."""

    def __init__(self, times: Sequence[float]) -> None:
        super().__init__()
        self._given = times

    async def read(self) -> Answer:
        await super().read()
        self.times, self.tokens, self.prompt_tokens = [*self._given], len(self._given), 1
        return self

    async def _pieces(self) -> AsyncGenerator[str, None]:
        for _ in self._given:
            yield "x"


class Scripted:
    """A server that gives these answers, one after the other, and remembers what it was asked."""

    def __init__(self, *answers: Sequence[float]) -> None:
        self._answers = iter(answers)
        self.asked: list[tuple[str, int, str | None]] = []

    def __call__(self, prompt: str, max_tokens: int, conversation_id: str | None = None) -> Answer:
        self.asked.append((prompt, max_tokens, conversation_id))
        return Timed(next(self._answers))


def seconds(begin: int, end: int) -> Sequence[float]:
    return [tenth / 10 for tenth in range(10 * begin, 10 * end + 1)]


def test_there_is_no_ratio_to_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    harness.report("reuse", 0, 0, unit="of what could be", better="higher")
    assert json.loads(capsys.readouterr().out)["ratio"] is None


async def test_each_side_begins_when_the_others_have_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[object] = []

    async def sleep(delay: float) -> None:
        happened.append(delay)

    async def ours(turn: int) -> int:
        happened.append("ours")
        return turn

    async def theirs(turn: int) -> int:
        happened.append("theirs")
        return turn

    monkeypatch.setattr(anyio, "sleep", sleep)
    await harness.in_rotation({"ours": ours, "theirs": theirs}, 2)
    settle = harness.SETTLE_SECONDS
    assert happened == [settle, "ours", settle, "theirs", settle, "theirs", settle, "ours"]


@pytest.mark.parametrize("file", [smollm2, gemma])
def test_the_bare_loop_has_the_attention_of_the_service(file: Callable[[], Path]) -> None:
    settings = ModelSettings(context_length=CONTEXT_TOKENS)
    served = kv_cache(settings, inspect(file()), 64 << 30)
    assert bare_settings(file()).flash_attention == served.flash_attention


@pytest.mark.parametrize("model_id", [models.MODEL_IDS["smollm2"], models.MADE_IDS["smollm2-q4_0"]])
def test_a_model_that_was_not_fetched_is_asked_for(
    model_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "FETCHED", tmp_path / "fetched")
    monkeypatch.setattr(models, "MADE", tmp_path / "made")
    with pytest.raises(SystemExit, match=r"SmolLM2.* is missing: run make bench-peers"):
        models.model_file(model_id)


def test_a_simulated_fleet_serves_all_requests_and_goes_on_where_conversations_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scale, "REQUESTS_A_SECOND", 40)
    simulation = scale.Simulation(random.Random("small"), nodes=20, models=100, conversations=200)
    simulation.run(40)
    counts = simulation.counts
    placed = sum(counts[reason] for reason in ("conversation", "loaded", "fits", "evicts", "waits"))
    assert placed == len(simulation.seconds["decision"]) == 40 * 40
    assert counts["refused"] <= 0.01 * placed
    assert counts["landed"] >= 0.9 * counts["turns"] > 0


async def test_models_that_did_not_generate_at_once_are_asked_again_for_longer() -> None:
    late, steady = Scripted(seconds(4, 6), (), seconds(1, 4)), Scripted(*[seconds(0, 3)] * 3)
    speeds = await together.speeds_together([late, steady], [100, 50], "asked again")
    assert list(speeds) == pytest.approx([10, 10], rel=0.1)
    prompts, tokens = {prompt for prompt, *_ in late.asked}, [tokens for _, tokens, _ in late.asked]
    assert len(prompts) == 3 and tokens == [150, 300, 450]


async def test_models_that_never_generate_at_once_fail_the_benchmark() -> None:
    first, second = Scripted(*[seconds(0, 1)] * 3), Scripted(*[seconds(2, 3)] * 3)
    with pytest.raises(AssertionError, match="did not generate at the same time"):
        await together.speeds_together([first, second], [100, 50], "never")


class Refusing(Timed):
    """An answer that does not come."""

    async def read(self) -> Answer:
        raise Overloaded


async def test_users_who_are_refused_go_on_asking_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "PAUSE_SECONDS", 0.0)
    prompts: list[str] = []

    def server(prompt: str, max_tokens: int, conversation_id: str | None = None) -> Answer:
        assert max_tokens and conversation_id is None
        prompts.append(prompt)
        return Refusing(()) if len(prompts) == 2 else Timed((0.25, 0.5, 2.0))

    asking = users.Users(server, 2, "refused")
    async with asking.asking():
        while len(prompts) < 4:
            await anyio.lowlevel.checkpoint()
    served = asking.served(0.0, math.inf)
    assert (served.failed, served.answered) == (1, len(prompts) - 1)
    assert len(set(prompts)) == len(prompts), "each question is new"


def test_the_longest_wait_for_the_next_text_counts_that_for_the_first() -> None:
    answer = Timed(())
    answer.asked, answer.times = 1.0, [1.5, 1.75, 2.0]
    assert users.longest_gap_ms(answer) == 500.0


async def test_agents_tell_the_id_of_a_conversation_only_where_it_is_asked_for() -> None:
    def answers() -> Iterator[Sequence[float]]:
        yield from [seconds(0, 1)] * 4

    without, told = Scripted(*answers()), Scripted(*answers())
    run = await together.run_agents([without], 4, 0)
    await together.run_agents([told], 4, 0, tell_ids=True)
    assert run.reused == 0
    assert {id for *_, id in without.asked} == {None}
    assert None not in {id for *_, id in told.asked}
    assert not {prompt for prompt, *_ in without.asked} & {prompt for prompt, *_ in told.asked}
