"""Tokens per second of one client: an answer streamed through the whole service, and a bare llama.cpp loop.

    .venv/bin/python benchmarks/generate.py [--quick]

Both answer the same prompts greedily, with the same file, threads and context length, each in a process of
its own that has loaded the model before; they take turns, and every prompt is new, so that nothing is reused.

- Ours is as it comes: eight slots, and the conversations of the turns before stay in them. It is measured by
  the client, from the request to the final message, which is sent when the generation is in the log.
- The bare loop has one sequence, which is emptied before each turn. It tokenizes, decodes, takes the
  likeliest token and adds its text; it is measured from the text of the prompt to that of the last token.

The coarser the quantization, the less there is to compute for a token, and the more of what is around it
shows. Prints a line of JSON for each model, higher is better; `--quick` has only the coarsest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from subprocess import PIPE

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from harness import Measure, in_turns, quick, report
from models import MADE_IDS, MODEL_IDS, model_file
from prompts import openings
from service import CONTEXT_TOKENS, running_service
from suite import machine
from suite.engine.backend import BatchEntry
from suite.engine.bindings import lib
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.sampler import Sampler, SamplingParams

COARSEST = {"smollm2-q4_0": MADE_IDS["smollm2-q4_0"]}
ALL_MODELS = {**MODEL_IDS, **COARSEST}
TOKENS = 160
SETTINGS = ContextSettings(
    context_tokens=CONTEXT_TOKENS,
    cache_tokens=CONTEXT_TOKENS,
    batch_tokens=512,
    gpu_layers=0,
    threads=machine.cores().value,
    slots=1,
)


@asynccontextmanager
async def bare_loop(model_id: str, prompts: Iterator[str]) -> AsyncIterator[Measure]:
    """llama.cpp without anything around it, in a process of its own."""
    async with await anyio.open_process(
        [sys.executable, __file__, "--bare", str(model_file(model_id))], stdin=PIPE, stdout=PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, figures = process.stdin, BufferedByteReceiveStream(process.stdout)

        async def tokens_per_second() -> float:
            await stdin.send(next(prompts).encode() + b"\n")
            return float(await figures.receive_until(b"\n", 64))

        yield tokens_per_second
        await stdin.aclose()


def run_bare_loop(path: str) -> None:
    """Answer each prompt on standard input with tokens per second."""
    model = LlamaModel.load(path, SETTINGS, lambda _fraction: None)
    greedy = SamplingParams(temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, seed=0)
    for line in sys.stdin:
        lib.llama_memory_clear(lib.llama_get_memory(model.context), True)
        started = time.perf_counter()
        tokens = model.vocabulary.tokenize(line.rstrip("\n"))
        text, position, count = b"", 0, 0
        with Sampler(greedy, model.vocabulary) as sampler:
            while count < TOKENS:
                model.decode([BatchEntry(0, tokens, position, wants_logits=True)])
                position += len(tokens)
                tokens = [sampler.sample(model.context)]
                text += model.vocabulary.piece(tokens[0])
                count += 1
        print(count / (time.perf_counter() - started), flush=True)


async def compare(name: str, model_id: str, turns: int) -> None:
    prompts = openings(model_id, turns + 1)
    ours_next = iter(prompts)
    async with (
        running_service(model_ids=[model_id]) as (client, _),
        bare_loop(model_id, iter(prompts)) as bare,
    ):
        await client.load_model(model_id)

        async def through_the_service() -> float:
            started = time.perf_counter()
            generation = client.generate(model_id, next(ours_next), max_tokens=TOKENS, temperature=0)
            async for _ in generation:
                pass
            seconds = time.perf_counter() - started
            assert generation.reply.usage.reused_tokens <= 4, "the prompts must differ"
            tokens = generation.reply.usage.completion_tokens
            return tokens / seconds

        ours, reference = await in_turns(through_the_service, bare, turns)
    report(f"generate.{name}.one_client", ours, reference, unit="tokens/s", better="higher")


async def main(is_quick: bool) -> None:
    for name, model_id in (COARSEST if is_quick else ALL_MODELS).items():
        await compare(name, model_id, turns=5 if is_quick else 20)


if __name__ == "__main__":
    if "--bare" in sys.argv:
        run_bare_loop(sys.argv[-1])
    else:
        anyio.run(main, quick(__doc__))
