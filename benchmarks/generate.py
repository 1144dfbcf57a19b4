"""Tokens per second of one client: an answer streamed through the whole service, and a bare llama.cpp loop.

    .venv/bin/python benchmarks/generate.py [--quick]

Both decode the same prompts greedily with the same context parameters and threads, each in a process of its
own that has loaded the model before; they take turns, and every prompt is new, so that nothing is reused.
Ours is measured by the client, from the request to the final message, which is sent when the generation is
in the log; the bare loop from the text of the prompt to the text of the last token. Prints one line of JSON,
higher is better.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import PIPE

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from harness import Measure, in_turns, quick, report
from models import model_file
from service import CONTEXT_TOKENS, MODEL_ID, SAME_CACHE, running_service
from suite import machine
from suite.engine.backend import BatchEntry
from suite.engine.bindings import lib
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.sampler import Sampler, SamplingParams

TOKENS = 160
PROMPT = "Chapter {}. The old lighthouse keeper climbed the stairs and looked at the sea, and he thought"
SETTINGS = ContextSettings(
    context_tokens=CONTEXT_TOKENS,
    cache_tokens=CONTEXT_TOKENS,
    batch_tokens=512,
    gpu_layers=0,
    threads=machine.cores().value,
    slots=4,
)


@asynccontextmanager
async def bare_loop() -> AsyncIterator[Measure]:
    """llama.cpp without anything around it, in a process of its own."""
    prompts = map(PROMPT.format, itertools.count())
    async with await anyio.open_process(
        [sys.executable, __file__, "--bare"], stdin=PIPE, stdout=PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, figures = process.stdin, BufferedByteReceiveStream(process.stdout)

        async def tokens_per_second() -> float:
            await stdin.send(next(prompts).encode() + b"\n")
            return float(await figures.receive_until(b"\n", 64))

        yield tokens_per_second
        await stdin.aclose()


def run_bare_loop() -> None:
    """Answer each prompt on standard input with tokens per second."""
    model = LlamaModel.load(str(model_file(MODEL_ID)), SETTINGS, lambda _fraction: None)
    greedy = SamplingParams(temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, seed=0)
    for line in sys.stdin:
        lib.llama_memory_clear(lib.llama_get_memory(model.context), True)
        started = time.perf_counter()
        tokens = model.vocabulary.tokenize(line.rstrip("\n"))
        text, count = b"", len(tokens)
        with Sampler(greedy, model.vocabulary) as sampler:
            model.decode([BatchEntry(0, tokens, 0, wants_logits=True)])
            for _ in range(TOKENS):
                token = sampler.sample(model.context)
                text += model.vocabulary.piece(token)
                model.decode([BatchEntry(0, [token], count, wants_logits=True)])
                count += 1
        print(TOKENS / (time.perf_counter() - started), flush=True)


async def main(turns: int) -> None:
    prompts = map(PROMPT.format, itertools.count())
    async with running_service(model_settings=SAME_CACHE) as (client, _), bare_loop() as bare:
        await client.load_model(MODEL_ID)

        async def through_the_service() -> float:
            started = time.perf_counter()
            generation = client.generate(MODEL_ID, next(prompts), max_tokens=TOKENS, temperature=0)
            async for _ in generation:
                pass
            seconds = time.perf_counter() - started
            assert generation.reply.usage.reused_tokens <= 2, "the prompts must differ"
            tokens = generation.reply.usage.completion_tokens
            return tokens / seconds

        ours, reference = await in_turns(through_the_service, bare, turns)
    report("generate.one_client", ours, reference, unit="tokens/s", better="higher")


if __name__ == "__main__":
    if "--bare" in sys.argv:
        run_bare_loop()
    else:
        anyio.run(main, 5 if quick(__doc__) else 20)
