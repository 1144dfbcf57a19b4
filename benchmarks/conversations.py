"""What a conversation costs that is gone on with: in its slot, after a reload, and as one of two hundred.

    make bench-peers
    .venv/bin/python benchmarks/conversations.py [--quick]

- `tenth_turn`: the first token of a tenth turn, one client, while 200 other conversations are idle: ours
  through the whole service, and llama.cpp's own server, over HTTP, whose slot is warm. Both are asked the
  same and get back their own answers, as text; the cache of sliding windows is whole on both sides, or
  llama.cpp's server would read it all again.
- `after_reload`: the first token of a next turn after the model was unloaded and loaded again, where the
  conversation is a snapshot on disk; the reference is ours without snapshots, which reads the prompt again.
- `reuse`, `memory`: 8 workers take turn after turn of 200 conversations, each of which ends after 8 turns and
  gives way to a new one, for 10 minutes. `reuse` is how many tokens were not decoded again, of those that
  could be: what the conversation held after its turn before, less the last token, which nobody has decoded.
  `memory` is the resident memory of the model's process at the end, and after the first round. There is room
  for snapshots of 256 conversations, so those that have ended have to go.

Prints a line of JSON for each; `--quick` has one model, 20 idle conversations, and 3 rounds of 20. Parts
(`tenth_turn`, `after_reload`, `many`) and models can be named, and the turns of each side given.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial

import anyio
import psutil

from answers import Server, ours
from dialogue import Dialogue
from harness import OURS, Choice, choice, in_rotation, report, report_each
from models import MADE_IDS, MODEL_IDS, model_file
from peers import LlamaServer, running_llama_server
from prompts import openings
from service import CONTEXT_TOKENS, running_service
from suite.client import Client

MODELS = {**MODEL_IDS, "smollm2-q4_0": MADE_IDS["smollm2-q4_0"]}
TURNS = 10
IDLE_CONVERSATIONS, FEW_IDLE_CONVERSATIONS = 200, 20
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


# --- the tenth turn -----------------------------------------------------------------------------------------


async def tenth_turn_ms(server: Server, turn: int) -> float:
    dialogue = Dialogue(f"tenth {turn}", SCENE_WORDS, conversation_id=f"tenth {turn}")
    for _ in range(TURNS - 1):
        await dialogue.turn(server)
    answer = await dialogue.turn(server)
    assert dialogue.reused_tokens > 0.8 * dialogue.reusable_tokens, "the slot was not warm"
    return answer.first_token_ms


async def leave_idle(server: Server, conversations: int) -> None:
    """Begin so many conversations that nobody goes on with."""
    for number, prompt in enumerate(openings("idle", conversations)):
        await server(prompt, 1, f"idle {number}").read()


async def tenth_turn(name: str, turns: int, *, idle: int) -> None:
    model_id = MODELS[name]
    peer = LlamaServer(model=str(model_file(model_id)), slot_tokens=CONTEXT_TOKENS, whole_window=True)
    async with (
        running_service(KEEP, model_ids=[model_id], model_settings=SETTINGS) as (client, _),
        running_llama_server(peer) as llama_server,
    ):
        await client.load_model(model_id)
        servers = {OURS: ours(client, model_id), "llama_server": llama_server}
        for server in servers.values():
            await leave_idle(server, idle)
        figures = await in_rotation(
            {side: partial(tenth_turn_ms, server) for side, server in servers.items()}, turns
        )
    report_each(f"conversations.{name}.tenth_turn", figures, unit="ms")


# --- after a reload -----------------------------------------------------------------------------------------


async def after_reload_ms(client: Client, model_id: str, turn: int) -> float:
    server = ours(client, model_id)
    dialogue = Dialogue(f"reload {turn}", LONG_SCENE_WORDS, conversation_id=f"reload {turn}")
    await dialogue.turn(server)
    await client.unload_model(model_id)
    await client.load_model(model_id)
    return (await dialogue.turn(server)).first_token_ms


async def after_reload(name: str, turns: int) -> None:
    model_id = MODELS[name]
    service = partial(running_service, model_ids=[model_id], model_settings=SETTINGS)
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
        self._dialogues = [self._begin() for _ in range(conversations)]
        self.reused_tokens = self.reusable_tokens = 0

    async def next(self) -> None:
        """A turn of each."""
        waiting = iter(range(len(self._dialogues)))
        async with anyio.create_task_group() as workers:
            for _ in range(WORKERS):
                workers.start_soon(self._work, waiting)

    async def _work(self, waiting: Iterator[int]) -> None:
        for place in waiting:
            dialogue = self._dialogues[place]
            if dialogue.turns == SHORT_TURNS:
                dialogue = self._dialogues[place] = self._begin()
            await dialogue.turn(self._server)
            # What a first turn shares with others by chance does not count.
            self.reused_tokens += min(dialogue.reused_tokens, dialogue.reusable_tokens)
            self.reusable_tokens += dialogue.reusable_tokens

    def _begin(self) -> Dialogue:
        name = next(self._names)
        return Dialogue(name, SHORT_SCENE_WORDS, conversation_id=name)


def model_process() -> psutil.Process:
    """Of the one model that is loaded; none stands ready beside it."""
    (process,) = [
        each for each in psutil.Process().children(recursive=True) if "suite.actors.entry" in each.cmdline()
    ]
    return process


async def many(name: str, *, conversations: int, rounds: int, seconds: float) -> None:
    """At least so many rounds, and as many as begin within this time."""
    model_id = MODELS[name]
    async with running_service(KEEP, model_ids=[model_id], model_settings=SETTINGS) as (client, _):
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


async def main(chosen: Choice) -> None:
    turns = chosen.turns or (1 if chosen.quick else 7)
    for name in itertools.islice(chosen.models, 1 if chosen.quick else None):
        if "tenth_turn" in chosen.parts:
            await tenth_turn(name, turns, idle=FEW_IDLE_CONVERSATIONS if chosen.quick else IDLE_CONVERSATIONS)
        if "after_reload" in chosen.parts:
            await after_reload(name, turns)
        if "many" in chosen.parts and chosen.quick:
            await many(name, conversations=20, rounds=3, seconds=0)
        elif "many" in chosen.parts:
            await many(name, conversations=200, rounds=3, seconds=600)


if __name__ == "__main__":
    parts = ("tenth_turn", "after_reload", "many")
    anyio.run(main, choice(__doc__, parts=parts, models=MODELS), backend_options={"use_uvloop": True})
