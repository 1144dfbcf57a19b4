"""One answer beside a picture that is encoded: in turns with the engine's steps, and at once.

    .venv/bin/python benchmarks/pictures.py [--quick]

The engine's thread as a model's process runs it, with a projector of random weights that takes about as long
for a picture as a small real one: 12 layers of 512, 1,024 patches; with `--quick`, 4 layers.

- `gap`: the longest time between two tokens of an answer while a picture is encoded, in milliseconds.
- `beside`: seconds until the picture is encoded meanwhile. In turns it takes longer, as the answer goes on.
- `alone`: seconds until it is encoded while nothing is generated, when only the pauses cost something.

Prints a line of JSON for each, with what it is at once as the reference.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from harness import quick, report
from models import MODEL_IDS, model_file
from service import CONTEXT_TOKENS, THREADS
from suite.engine.engine import Engine
from suite.engine.generation import EngineRequest, Generation
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.pictures.image import Image
from suite.engine.pictures.tokens import EncodedPicture
from suite.engine.sampler import SamplingParams
from suite.engine.thread import EngineThread
from suite.errors import SuiteError
from suite.messages.logprobs import TokenLogprobs

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from support.projector import tiny_projector

EMBEDDING, WIDTH, SIDE = 576, 512, 256
MOST_SECONDS = 120.0
ANSWER_TOKENS = 1500
NEVER = 1e9


class Heard:
    """Notes when each piece of an answer came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.begun = threading.Event()
        self.over = threading.Event()

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None, *, reasoning: str = "") -> None:
        """Note the time."""
        del text, logprobs, reasoning
        self.times.append(time.perf_counter())
        if len(self.times) == 4:
            self.begun.set()

    def on_end(self, error: SuiteError | None) -> None:
        """Take note of the end."""
        assert error is None, error
        self.over.set()


class Figures(NamedTuple):
    """What one picture cost."""

    gap: float
    """0 without an answer beside it."""
    seconds: float


class Work(NamedTuple):
    """Encodes a picture: in turns as a model's process does it, or at once."""

    picture: Image
    in_turns: bool

    def encode(self, model: LlamaModel, engine: Engine) -> Generator[None, None, EncodedPicture]:
        """The work for the engine's thread."""
        assert model.projector is not None

        def spare() -> float:
            return min(engine.spare_seconds(), model.settings.max_step_seconds) if self.in_turns else NEVER

        return (yield from model.projector.encode(self.picture, self.picture.rgb[:16], seconds=spare))


def encoded(thread: EngineThread, work: Work) -> tuple[float, float]:
    """When it began and ended."""
    began = time.perf_counter()
    thread.run_in_pieces(work.encode).result(MOST_SECONDS)
    return began, time.perf_counter()


def beside_an_answer(thread: EngineThread, model: LlamaModel, work: Work) -> Figures:
    heard = Heard()
    order = EngineRequest(
        prompt=model.vocabulary.tokenize("Once upon a time"),
        max_tokens=ANSWER_TOKENS,
        stop=(),
        sampling=SamplingParams(seed=1, temperature=1.0),
        conversation_id=None,
    )
    generation = Generation(order, time.perf_counter)
    thread.submit(generation, heard)
    assert heard.begun.wait(MOST_SECONDS)
    began, ended = encoded(thread, work)
    time.sleep(0.3)  # the token that waited for it
    generation.cancel("cancelled")
    assert heard.over.wait(MOST_SECONDS)
    times = [each for each in heard.times if began - 0.5 < each]
    return Figures(max(b - a for a, b in pairwise(times) if b > began), ended - began)


def main(is_quick: bool) -> None:
    noise = random.Random(1)
    with tempfile.TemporaryDirectory() as directory:
        projector = tiny_projector(
            Path(directory) / "mmproj.gguf",
            embedding=EMBEDDING,
            width=WIDTH,
            layers=4 if is_quick else 12,
            side=SIDE,
        )
        settings = ContextSettings(
            context_tokens=CONTEXT_TOKENS,
            cache_tokens=2 * CONTEXT_TOKENS,
            kv_cache="separate",
            batch_tokens=512,
            gpu_layers=0,
            threads=THREADS,
            slots=2,
            projector=str(projector),
        )
        thread = EngineThread(str(model_file(MODEL_IDS["smollm2"])), settings, lambda _: None)
        thread.start()
        model = thread.loaded.result(MOST_SECONDS)
        beside: dict[bool, list[Figures]] = {True: [], False: []}
        alone: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(3 if is_quick else 6):  # the first one warms up
            for in_turns in (True, False):
                picture = Image(SIDE, SIDE, noise.randbytes(SIDE * SIDE * 3))
                beside[in_turns].append(beside_an_answer(thread, model, Work(picture, in_turns)))
                began, ended = encoded(thread, Work(picture, in_turns))
                alone[in_turns].append(ended - began)

    def median(in_turns: bool, which: int) -> float:
        return statistics.median(each[which] for each in beside[in_turns][1:])

    report("pictures.gap", median(True, 0) * 1000, median(False, 0) * 1000, unit="ms", better="lower")
    report("pictures.beside", median(True, 1), median(False, 1), unit="s", better="lower")
    report(
        "pictures.alone",
        statistics.median(alone[True][1:]),
        statistics.median(alone[False][1:]),
        unit="s",
        better="lower",
    )


if __name__ == "__main__":
    main(quick(__doc__))
