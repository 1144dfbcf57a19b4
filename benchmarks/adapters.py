"""Eight streams of one model with LoRA adapters: all with the same, and taking turns with different ones.

    .venv/bin/python benchmarks/adapters.py [--quick]

The engine as a model's process runs it, without what is around it: eight slots, each with a stream of its own
in the KV cache. The adapters are of random weights, of rank 16, on all matrices of attention and of the feed
forward.

- `one_set`: tokens a second of eight streams with one adapter, by those of eight without: what it costs to
  compute it.
- `three_sets`: eight streams, of two adapters and none in turns, by eight with one adapter. A batch has one
  set of adapters: the more a step costs that is the same for one stream and for many, the nearer to a third.
- `change`: milliseconds of a step with four streams after a change of the set, by the same without: the
  difference is what a change costs.

Prints a line of JSON for each; `--quick` has fewer tokens and turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import quick, report
from models import MODEL_IDS, model_file
from service import CONTEXT_TOKENS, THREADS
from suite.engine.adapters import NO_ADAPTERS, Adapter, AdapterSet, adapter_set
from suite.engine.backend import BatchEntry
from suite.engine.engine import Engine
from suite.engine.generation import EngineRequest, Generation
from suite.engine.gguf.estimate import uses_flash_attention
from suite.engine.gguf.file import inspect
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.sampler import SamplingParams
from suite.engine.slots import Slots
from suite.errors import SuiteError
from suite.messages.logprobs import TokenLogprobs

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from support.adapters import adapter

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
STREAMS, CHANGED_STREAMS, RANK = 8, 4, 16
STEP_SECONDS = 0.15
"""`max_step_ms` as it comes."""


class Heard:
    """A listener that wants an answer without an error and nothing else."""

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None, *, reasoning: str = "") -> None:
        """Leave the text."""

    def on_end(self, error: SuiteError | None) -> None:
        """Take note of the end."""
        assert error is None, error


def loaded(path: Path) -> LlamaModel:
    """The model, as a service loads it."""
    settings = ContextSettings(
        context_tokens=CONTEXT_TOKENS,
        cache_tokens=STREAMS * CONTEXT_TOKENS,
        kv_cache="separate",
        flash_attention=uses_flash_attention(inspect(path), cache_tokens=CONTEXT_TOKENS, batch_tokens=512),
        batch_tokens=512,
        gpu_layers=0,
        threads=THREADS,
        slots=STREAMS,
    )
    return LlamaModel.load(str(path), settings, lambda _: None)


def tokens_per_second(model: LlamaModel, sets: Sequence[AdapterSet], tokens: int) -> float:
    """Of one stream for each of these sets, at once."""
    engine = Engine(model, Slots(STREAMS), prompt_step_tokens=256, max_step_seconds=STEP_SECONDS)
    texts = (f"{number} times he had asked himself" for number in range(len(sets)))
    generations = [
        Generation(
            EngineRequest(
                prompt=model.vocabulary.tokenize(text),
                max_tokens=tokens,
                stop=(),
                sampling=SamplingParams(seed=1, temperature=0.0),
                conversation_id=None,
                adapters=adapters,
            ),
            time.perf_counter,
        )
        for text, adapters in zip(texts, sets, strict=True)
    ]
    began = time.perf_counter()
    for each in generations:
        engine.submit(each, Heard())
    while engine.busy:
        engine.step()
    seconds = time.perf_counter() - began
    engine.clear(None)
    engine.step()
    return sum(each.completion_tokens for each in generations) / seconds


def step_ms(model: LlamaModel, sets: Sequence[AdapterSet], steps: int) -> float:
    """Milliseconds of a step of several streams, where the set changes from step to step."""
    figures = []
    for sequence in range(CHANGED_STREAMS):
        model.truncate(sequence, 0)
    for step in range(steps):
        entries = [BatchEntry(each, [100], step, wants_logits=True) for each in range(CHANGED_STREAMS)]
        began = time.perf_counter()
        model.use_adapters(sets[step % len(sets)])
        model.decode(entries)
        figures.append((time.perf_counter() - began) * 1000)
    return statistics.median(figures)


def compare(model: LlamaModel, pirate: AdapterSet, poet: AdapterSet, *, turns: int, tokens: int) -> None:
    sides = {
        "none": [NO_ADAPTERS] * STREAMS,
        "one": [pirate] * STREAMS,
        "three": [(NO_ADAPTERS, pirate, poet)[number % 3] for number in range(STREAMS)],
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    steps: dict[str, list[float]] = {"changed": [], "same": []}
    for _ in range(turns + 1):  # the first one warms up
        for name, sets in sides.items():
            speeds[name].append(tokens_per_second(model, sets, tokens))
        steps["changed"].append(step_ms(model, (pirate, poet), tokens))
        steps["same"].append(step_ms(model, (pirate,), tokens))
    of = {name: statistics.median(each[1:]) for name, each in (speeds | steps).items()}
    report("adapters.one_set", of["one"], of["none"], unit="tokens/s", better="higher")
    report("adapters.three_sets", of["three"], of["one"], unit="tokens/s", better="higher")
    report("adapters.change", of["changed"], of["same"], unit="ms", better="lower")


def main(is_quick: bool) -> None:
    path = model_file(MODEL_IDS["smollm2"])
    with tempfile.TemporaryDirectory() as directory:
        sets = []
        for seed, name in enumerate(("pirate", "poet")):
            made = adapter(
                Path(directory) / f"{name}.gguf", path, rank=RANK, strength=0.1, targets=MATRICES, seed=seed
            )
            sets.append(adapter_set([Adapter(name, str(made), 1.0)]))
        model = loaded(path)
        compare(model, *sets, turns=1 if is_quick else 7, tokens=12 if is_quick else 64)
        model.free()


if __name__ == "__main__":
    main(quick(__doc__))
