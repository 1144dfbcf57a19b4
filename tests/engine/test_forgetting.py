"""Forgetting tokens on the engine's thread while it generates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Event

import pytest

from suite.engine.generation import EngineRequest, Generation
from suite.engine.llama_model import ContextSettings
from suite.engine.sampler import SamplingParams
from suite.engine.thread import EngineThread
from suite.errors import SuiteError
from suite.messages.actions.status import KvCacheForm
from suite.messages.actor import Cleared
from suite.messages.logprobs import TokenLogprobs
from support.models import smollm2

SECONDS = 30.0
STORY = "The old lighthouse keeper climbed the stairs every evening and looked at the sea."
OTHER = "A tree has leaves, and in autumn they fall one by one."


class Heard:
    """What the engine said of one generation; it does something of its own after a few pieces."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.text = ""
        self.over = Event()
        self.failure: SuiteError | None = None
        self._pieces = 0
        self._then = then

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None, *, reasoning: str = "") -> None:
        assert logprobs is None and not reasoning
        self.text += text
        self._pieces += 1
        if self._pieces == 4:
            self._then()

    def on_end(self, error: SuiteError | None) -> None:
        self.failure = error
        self.over.set()


class Engine:
    """A thread with a real model, and generations on it."""

    def __init__(self, form: KvCacheForm) -> None:
        settings = ContextSettings(
            context_tokens=512,
            cache_tokens=512,
            kv_cache=form,
            batch_tokens=128,
            gpu_layers=0,
            threads=1,
            slots=2,
        )
        self.thread = EngineThread(str(smollm2()), settings, lambda _fraction: None)
        self.thread.start()
        self._vocabulary = self.thread.loaded.result(SECONDS).vocabulary

    def generation(self, prompt: str, conversation_id: str) -> Generation:
        sampling = SamplingParams(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, seed=1)
        order = EngineRequest(
            prompt=self._vocabulary.tokenize(prompt),
            max_tokens=20,
            stop=(),
            sampling=sampling,
            conversation_id=conversation_id,
        )
        return Generation(order, time.monotonic)

    def generate(self, prompt: str, conversation_id: str, heard: Heard) -> Generation:
        """Run one to its end."""
        generation = self.generation(prompt, conversation_id)
        self.thread.submit(generation, heard)
        assert heard.over.wait(SECONDS)
        assert heard.failure is None
        return generation

    def clear(self, conversation_id: str | None) -> Cleared:
        return self.thread.clear(conversation_id).result(SECONDS)

    def free(self) -> None:
        """Give its memory back once nothing is generated: else its next step would end the process."""
        while self.thread.run_between_steps(lambda _, engine: engine.busy).result():
            pass
        self.thread.loaded.result().free()


@pytest.fixture(scope="module", params=["separate", "unified"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = Engine(request.param)
    yield engine
    engine.free()


@pytest.fixture(scope="module")
def undisturbed(engine: Engine) -> str:
    heard = Heard()
    engine.generate(STORY, "a", heard)
    return heard.text


@pytest.mark.parametrize("forgotten", ["a", "b", None])
def test_what_is_forgotten_while_one_generates_changes_nothing_of_its_text(
    engine: Engine, undisturbed: str, forgotten: str | None
) -> None:
    engine.clear(None)
    engine.generate(OTHER, "b", Heard())
    asked: list[Future[Cleared]] = []
    heard = Heard(lambda: asked.append(engine.thread.clear(forgotten)))
    engine.generate(STORY, "a", heard)
    assert heard.text == undisturbed
    cleared = asked[0].result(SECONDS)
    assert cleared.conversations == (2 if forgotten is None else 1)
    assert cleared.generating == (forgotten != "b")
    held = {"a", "b"} - ({"a", "b"} if forgotten is None else {forgotten})
    for conversation_id, prompt in (("a", STORY), ("b", OTHER)):
        generation = engine.generate(prompt, conversation_id, Heard())
        assert (generation.reused_tokens > 0) == (conversation_id in held)


def test_what_waits_is_not_in_the_way_and_begins_afresh(engine: Engine) -> None:
    engine.clear(None)
    engine.generate(OTHER, "b", Heard())
    waiting, heard = engine.generation(OTHER, "b"), Heard()

    def submit_and_clear() -> None:
        engine.thread.submit(waiting, heard)
        engine.thread.clear("b")

    engine.generate(STORY, "a", Heard(submit_and_clear))
    assert heard.over.wait(SECONDS)
    assert waiting.reused_tokens == 0


def test_a_clear_that_nobody_waits_for_any_more_is_not_done(engine: Engine) -> None:
    engine.generate(STORY, "a", Heard())
    asked: list[Future[Cleared]] = []

    def ask_and_give_up() -> None:
        asked.append(engine.thread.clear("a"))
        assert asked[0].cancel()

    engine.generate(OTHER, "b", Heard(ask_and_give_up))
    assert engine.generate(STORY, "a", Heard()).reused_tokens > 0
