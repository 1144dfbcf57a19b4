"""What a conversation costs that is gone on with: in its slot, after a reload, and as one of two hundred.

    make bench-peers
    .venv/bin/python benchmarks/conversations.py [--quick]

- `tenth_turn`: the first token of a tenth turn, one client: ours through the whole service, and llama.cpp's
  own server, over HTTP, whose slot is warm. Both are asked the same and get back their own answers, as text;
  the cache of sliding windows is whole on both sides, or llama.cpp's server would read it all again.
- `after_reload`: the first token of a next turn after the model was unloaded and loaded again, where the
  conversation is a snapshot on disk; the reference is ours without snapshots, which reads the prompt again.
- `reuse`, `memory`: 8 workers take turn after turn of 200 conversations, each of which ends after 8 turns and
  gives way to a new one, for 10 minutes. `reuse` is how many tokens were not decoded again, of those that
  could be: what the conversation held after its turn before, less the last token, which nobody has decoded.
  `memory` is the resident memory of the model's process at the end, and after the first round. There is room
  for snapshots of 256 conversations, so those that have ended have to go.

Prints a line of JSON for each; `--quick` has one model, and 3 rounds of 20 conversations.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial

import anyio
import psutil

from answers import Server, ours
from harness import in_rotation, quick, report
from models import MODEL_IDS, model_file
from peers import LlamaServer, running_llama_server
from prompts import WORDS, scene
from service import CONTEXT_TOKENS, running_service
from suite.client import Client

TOKENS = 24
TURNS = 10
SCENE_WORDS, LONG_SCENE_WORDS, SHORT_SCENE_WORDS = 500, 1500, 120
SETTINGS = f"slots = 8\ncache_tokens = {8 * CONTEXT_TOKENS}"
WORKERS = 8
SHORT_TURNS = 8
KEEP = """standby = false
[snapshots]
memory_mb = 64
max_conversations = 256
disk_mb = 8192"""
KEEP_NOTHING = "standby = false\n[snapshots]\nenabled = false"


class Conversation:
    """What was said, and how much of it a server can still hold."""

    def __init__(self, conversation_id: str, words: int) -> None:
        self.conversation_id = conversation_id
        self.turns = 0
        self.reused_tokens = self.reusable_tokens = 0
        self._chosen = random.Random(conversation_id)
        self._text = scene(conversation_id, words)
        self._held_tokens = 0

    async def turn(self, server: Server) -> float:
        """Milliseconds to the first token of the next answer."""
        first, second = self._chosen.sample(WORDS, 2)
        self._text += f"\nQuestion: What has the {first} to do with the {second}?\nAnswer:"
        answer = await server(self._text, TOKENS, self.conversation_id).read()
        self._text += answer.text
        self.turns += 1
        self.reused_tokens, self.reusable_tokens = answer.reused_tokens, self._held_tokens
        self._held_tokens = answer.prompt_tokens + answer.tokens - 1
        return answer.first_token_ms


# --- the tenth turn -----------------------------------------------------------------------------------------


async def tenth_turn_ms(server: Server, turn: int) -> float:
    conversation = Conversation(f"tenth {turn}", SCENE_WORDS)
    for _ in range(TURNS - 1):
        await conversation.turn(server)
    took = await conversation.turn(server)
    assert conversation.reused_tokens > 0.8 * conversation.reusable_tokens, "the slot was not warm"
    return took


async def tenth_turn(name: str, model_id: str, turns: int) -> None:
    peer = LlamaServer(model=str(model_file(model_id)), slot_tokens=CONTEXT_TOKENS, whole_window=True)
    async with (
        running_service(model_id=model_id, model_settings=SETTINGS) as (client, _),
        running_llama_server(peer) as llama_server,
    ):
        await client.load_model(model_id)
        sides = {
            "ours": partial(tenth_turn_ms, ours(client, model_id)),
            "llama_server": partial(tenth_turn_ms, llama_server),
        }
        figures = await in_rotation(sides, turns)
    report(
        f"conversations.{name}.tenth_turn",
        statistics.median(figures["ours"]),
        statistics.median(figures["llama_server"]),
        unit="ms",
        better="lower",
    )


# --- after a reload -----------------------------------------------------------------------------------------


async def after_reload_ms(client: Client, model_id: str, turn: int) -> float:
    server = ours(client, model_id)
    conversation = Conversation(f"reload {turn}", LONG_SCENE_WORDS)
    await conversation.turn(server)
    await client.unload_model(model_id)
    await client.load_model(model_id)
    return await conversation.turn(server)


async def after_reload(name: str, model_id: str, turns: int) -> None:
    service = partial(running_service, model_id=model_id, model_settings=SETTINGS)
    async with service(KEEP) as (keeps, _), service(KEEP_NOTHING) as (forgets, _):
        sides = {
            "restored": partial(after_reload_ms, keeps, model_id),
            "prefilled": partial(after_reload_ms, forgets, model_id),
        }
        figures = await in_rotation(sides, turns)
    report(
        f"conversations.{name}.after_reload",
        statistics.median(figures["restored"]),
        statistics.median(figures["prefilled"]),
        unit="ms",
        better="lower",
    )


# --- many ---------------------------------------------------------------------------------------------------


class Rounds:
    """Conversations that are gone on with in turn, by some workers at once."""

    def __init__(self, server: Server, conversations: int) -> None:
        self._server = server
        self._names = map("conversation {}".format, itertools.count())
        self._conversations = [self._begin() for _ in range(conversations)]
        self.reused_tokens = self.reusable_tokens = 0

    async def next(self) -> None:
        """A turn of each."""
        waiting = iter(range(len(self._conversations)))
        async with anyio.create_task_group() as workers:
            for _ in range(WORKERS):
                workers.start_soon(self._work, waiting)

    async def _work(self, waiting: Iterator[int]) -> None:
        for place in waiting:
            conversation = self._conversations[place]
            if conversation.turns == SHORT_TURNS:
                conversation = self._conversations[place] = self._begin()
            await conversation.turn(self._server)
            # What a first turn shares with others by chance does not count.
            self.reused_tokens += min(conversation.reused_tokens, conversation.reusable_tokens)
            self.reusable_tokens += conversation.reusable_tokens

    def _begin(self) -> Conversation:
        return Conversation(next(self._names), SHORT_SCENE_WORDS)


def model_process() -> psutil.Process:
    """Of the one model that is loaded; none stands ready beside it."""
    (process,) = [
        each for each in psutil.Process().children(recursive=True) if "suite.actors.entry" in each.cmdline()
    ]
    return process


async def many(name: str, model_id: str, *, conversations: int, rounds: int, seconds: float) -> None:
    """At least so many rounds, and as many as begin within this time."""
    async with running_service(KEEP, model_id=model_id, model_settings=SETTINGS) as (client, _):
        await client.load_model(model_id)
        process = model_process()
        turns = Rounds(ours(client, model_id), conversations)
        began = time.monotonic()
        resident: list[int] = []
        while len(resident) < rounds or time.monotonic() - began < seconds:
            await turns.next()
            resident.append(process.memory_info().rss >> 20)
            print(f"round {len(resident)}: {resident[-1]} MiB", file=sys.stderr)
    report(
        f"conversations.{name}.reuse",
        turns.reused_tokens,
        turns.reusable_tokens,
        unit="tokens",
        better="higher",
    )
    report(f"conversations.{name}.memory", resident[-1], resident[0], unit="MiB", better="lower")


async def main(is_quick: bool) -> None:
    for name, model_id in itertools.islice(MODEL_IDS.items(), 1 if is_quick else None):
        await tenth_turn(name, model_id, 1 if is_quick else 7)
        await after_reload(name, model_id, 1 if is_quick else 7)
        if is_quick:
            await many(name, model_id, conversations=20, rounds=3, seconds=0)
        else:
            await many(name, model_id, conversations=200, rounds=3, seconds=600)


if __name__ == "__main__":
    anyio.run(main, quick(__doc__), backend_options={"use_uvloop": True})
