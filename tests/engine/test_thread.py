"""The engine's thread: what is done between its steps, and its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from pathlib import Path
from queue import Queue
from threading import Event

import pytest

from suite.engine.embedding import Embedder
from suite.engine.engine import Engine, StepStats
from suite.engine.generation import EngineRequest, Generation
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.sampler import SamplingParams
from suite.engine.thread import ENGINE_FAILED_EXIT_CODE, EngineThread
from suite.errors import LoadFailed, SuiteError
from suite.messages.logprobs import TokenLogprobs
from support.models import tiny_model

SECONDS = 30.0
SETTINGS = ContextSettings(
    context_tokens=256,
    cache_tokens=512,
    batch_tokens=64,
    prompt_step_tokens=32,
    gpu_layers=0,
    threads=1,
    slots=2,
)


class Heard:
    """What the engine said of one generation."""

    def __init__(self) -> None:
        self.over = Event()

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None, *, reasoning: str = "") -> None:
        pass

    def on_end(self, error: SuiteError | None) -> None:
        assert error is None
        self.over.set()


class Exploding(Heard):
    def on_end(self, _: SuiteError | None) -> None:
        raise MemoryError("nothing is left")


def generation(max_tokens: int) -> Generation:
    sampling = SamplingParams(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, seed=1)
    order = EngineRequest(
        prompt=[1, 300], max_tokens=max_tokens, stop=(), sampling=sampling, conversation_id=None
    )
    return Generation(order, time.monotonic)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf")


@pytest.fixture
def ends() -> Queue[int]:
    return Queue()


@pytest.fixture
def thread(path: Path, ends: Queue[int]) -> EngineThread:
    """It has not begun: what is handed in now, it finds all at once."""
    return EngineThread(str(path), SETTINGS, lambda _: None, end_process=ends.put)


class Pieces:
    """Work of several pieces, written down in the order in which all is done."""

    def __init__(self, done: list[str], name: str, count: int) -> None:
        self._done = done
        self._name = name
        self._count = count

    def __call__(self, _model: LlamaModel, _engine: Engine) -> Generator[None, None, str]:
        for number in range(self._count):
            if number:
                yield
            self._done.append(self._name)
        return self._name


def test_vectors_are_made_in_pieces_with_a_step_between_two(thread: EngineThread) -> None:
    order: list[str] = []

    def embed(model: LlamaModel, _: Engine) -> Generator[None, None, tuple[tuple[float, ...], ...]]:
        steps = Embedder(model, SETTINGS).embed([[5] * 200, *[[6] * 20] * 20])
        while True:
            order.append("piece")
            try:
                next(steps)
            except StopIteration as end:
                vectors: tuple[tuple[float, ...], ...] = end.value
                return vectors
            yield

    heard = Heard()
    thread.observe(lambda _: order.append("step"))
    thread.submit(generation(100), heard)
    asked = [thread.run_in_pieces(embed), thread.run_in_pieces(embed)]
    thread.start()
    assert [len(each.result(SECONDS)) for each in asked] == [21, 21]
    assert heard.over.wait(SECONDS)
    assert order.count("piece") == 2 * (7 + 20)
    assert order[: 4 * 27] == ["piece", "step"] * 2 * 27


def test_what_takes_long_is_done_in_its_order_and_without_generations_too(thread: EngineThread) -> None:
    order: list[str] = []
    asked = [thread.run_in_pieces(Pieces(order, name, 3)) for name in "ab"]
    thread.start()
    assert [each.result(SECONDS) for each in asked] == ["a", "b"]
    assert order == ["a"] * 3 + ["b"] * 3
    assert thread.run_in_pieces(Pieces(order, "c", 1)).result(SECONDS) == "c"


def test_what_nobody_wants_any_more_is_given_up_between_two_pieces(thread: EngineThread) -> None:
    order: list[str] = []
    closed = Event()

    def endless(_model: LlamaModel, _engine: Engine) -> Generator[None, None, None]:
        try:
            while True:
                order.append("endless")
                if len(order) == 3:
                    asked.cancel()
                yield
        finally:
            closed.set()

    asked = thread.run_in_pieces(endless)
    never = thread.run_in_pieces(Pieces(order, "never", 1))
    assert never.cancel()
    thread.start()
    assert closed.wait(SECONDS)
    assert thread.run_in_pieces(Pieces(order, "next", 1)).result(SECONDS) == "next"
    assert order == ["endless"] * 3 + ["next"]


def test_what_fails_between_two_steps_is_told_and_harms_nothing_else(thread: EngineThread) -> None:
    def fail(_model: LlamaModel, _engine: Engine) -> Generator[None, None, None]:
        yield
        raise ZeroDivisionError

    heard = Heard()
    thread.submit(generation(20), heard)
    asked = thread.run_in_pieces(fail)
    thread.start()
    assert isinstance(asked.exception(SECONDS), ZeroDivisionError)
    assert heard.over.wait(SECONDS)


def test_an_engine_that_fails_ends_its_process_and_says_why(
    thread: EngineThread, ends: Queue[int], caplog: pytest.LogCaptureFixture
) -> None:
    thread.submit(generation(4), Exploding())
    with caplog.at_level(logging.CRITICAL):
        thread.start()
        assert ends.get(timeout=SECONDS) == ENGINE_FAILED_EXIT_CODE
    assert "nothing is left" in caplog.text
    assert "Traceback" in caplog.text


def test_an_error_that_nobody_catches_ends_the_process_too(thread: EngineThread, ends: Queue[int]) -> None:
    def fail(_: StepStats) -> None:
        raise SuiteError

    thread.observe(fail)
    thread.submit(generation(4), Heard())
    thread.start()
    assert ends.get(timeout=SECONDS) == ENGINE_FAILED_EXIT_CODE


def test_snapshots_that_cannot_be_opened_are_a_load_that_failed(path: Path, ends: Queue[int]) -> None:
    def fail() -> None:
        raise OSError("the disk is gone")

    thread = EngineThread(str(path), SETTINGS, lambda _: None, fail, ends.put)
    thread.start()
    failure = thread.loaded.exception(SECONDS)
    assert isinstance(failure, LoadFailed)
    assert "the disk is gone" in failure.message
