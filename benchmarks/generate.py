"""Tokens per second of one client: an answer streamed through NATS from a model's process, and a bare loop.

    .venv/bin/python benchmarks/generate.py [--quick]

Both decode the same prompts greedily with the same context parameters and threads, each in a process of its
own that has loaded the model before; they take turns, and every prompt is new, so that nothing is reused.
Ours is measured by the client, from the request to the final message; the bare loop from the text of the
prompt to the text of the last token. Prints one line of JSON, higher is better.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import anyio
import msgspec
import psutil

from suite.actors.process import ActorProcess
from suite.bus.connection import Connection, Message
from suite.bus.embedded import EmbeddedServer
from suite.engine.bindings import lib
from suite.engine.model import ContextSettings, Model
from suite.engine.sampler import Sampler, Sampling
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.actions import GenerateTextReply, GenerateTextRequest
from suite.messages.actor import REPLY_HEADER, ActorSpec, Failed, Handover, HandoverReply, Ready
from suite.messages.subjects import Subjects

MODEL = Path(os.environ.get("SUITE_TEST_MODELS", Path(__file__).parent.parent / ".models")) / (
    "SmolLM2-135M-Instruct.Q4_1.gguf"
)
SETTINGS = ContextSettings(
    context_tokens=2048,
    batch_tokens=512,
    gpu_layers=0,
    threads=psutil.cpu_count(logical=False) or 1,
    slots=4,
)
TOKENS = 128
PROMPT = (
    "Chapter {number}. The old lighthouse keeper climbed the stairs and looked at the sea, and he thought"
)

Generate = Callable[[str], Awaitable[float]]
"""Generate TOKENS tokens after a prompt; tokens per second."""


@asynccontextmanager
async def whole_path() -> AsyncIterator[Generate]:
    """A client on NATS and the process of the model, handed over to as the node does it."""
    subjects = Subjects()
    with tempfile.TemporaryDirectory() as directory:
        async with (
            EmbeddedServer.start(Path(directory) / "nats") as server,
            Connection.open(server.access, name="node") as node,
            Connection.open(server.client, name="client") as client,
            Log.open(node, subjects, source="/node/bench", new_id=new_id, now=utc_now),
            ActorProcess.start(_spec(server)) as process,
        ):
            async for report in process.reports():
                assert not isinstance(report, Failed), report
                if isinstance(report, Ready):
                    break

            async def generate(prompt: str) -> float:
                done: asyncio.Future[GenerateTextReply] = asyncio.get_running_loop().create_future()
                inbox = client.new_inbox()

                async def receive(message: Message) -> None:
                    if b'"status":' in message.data:
                        done.set_result(msgspec.json.decode(message.data, type=GenerateTextReply))

                subscription = await client.subscribe(inbox, receive)
                started = time.perf_counter()
                handover = Handover(generation_id=new_id(), request=_request(prompt))
                answer = await node.request(
                    subjects.actor("bench", "1", "generate"),
                    msgspec.json.encode(handover),
                    headers={REPLY_HEADER: inbox},
                    timeout=5,
                )
                assert msgspec.json.decode(answer.data, type=HandoverReply).accepted
                reply = await done
                seconds = time.perf_counter() - started
                await subscription.unsubscribe()
                assert reply.usage.reused_tokens <= 2, "the prompts must differ"
                return reply.usage.completion_tokens / seconds

            yield generate


def _request(prompt: str) -> GenerateTextRequest:
    return GenerateTextRequest(
        model_id="model",
        prompt=prompt,
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
        conversation_id="bench",
    )


def _spec(server: EmbeddedServer) -> ActorSpec:
    return ActorSpec(
        node="bench",
        instance_id="1",
        model_id="model",
        model_path=str(MODEL),
        subject_root="suite",
        nats=server.access,
        queue_limit=4,
        tracing="off",
        **msgspec.to_builtins(SETTINGS),
    )


@asynccontextmanager
async def bare_loop() -> AsyncIterator[Generate]:
    """llama.cpp without anything around it, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--bare", stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def generate(prompt: str) -> float:
        stdin.write(prompt.encode() + b"\n")
        return float(await stdout.readline())

    try:
        yield generate
    finally:
        stdin.close()
        await process.wait()


def run_bare_loop() -> None:
    """Answer each prompt on standard input with tokens per second."""
    model = Model.load(str(MODEL), SETTINGS, lambda _fraction: None)
    greedy = Sampling(temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, seed=0)
    for line in sys.stdin:
        lib.llama_memory_clear(lib.llama_get_memory(model.context), True)
        started = time.perf_counter()
        tokens = model.vocabulary.tokenize(line.rstrip("\n"))
        text, count = b"", len(tokens)
        with Sampler(greedy, model.vocabulary.size) as sampler:
            model.decode(tokens, 0, 0)
            for _ in range(TOKENS):
                token = sampler.next(model.context)
                text += model.vocabulary.piece(token)
                model.decode([token], 0, count)
                count += 1
        print(TOKENS / (time.perf_counter() - started), flush=True)
    model.free()


async def compare(rounds: int) -> None:
    """Let both take turns, and print the medians."""
    ours: list[float] = []
    reference: list[float] = []
    async with whole_path() as through_suite, bare_loop() as bare:
        for number in range(rounds + 1):
            for generate, figures in ((through_suite, ours), (bare, reference)):
                figures.append(await generate(PROMPT.format(number=number)))
    ours, reference = ours[1:], reference[1:]  # the first round warms both up
    print(
        json.dumps(
            {
                "name": "generate.one_client",
                "ours": round(statistics.median(ours), 2),
                "reference": round(statistics.median(reference), 2),
                "ratio": round(statistics.median(ours) / statistics.median(reference), 4),
                "unit": "tokens/s",
                "better": "higher",
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 45 seconds")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        run_bare_loop()
    else:
        anyio.run(compare, 5 if arguments.quick else 15)
