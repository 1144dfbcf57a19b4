"""Models that share a machine, and clients that share a model: ours, llama.cpp's server, and its router.

    make bench-peers
    make bench-router    # once, half an hour; without it the comparisons with the router are left out
    .venv/bin/python benchmarks/together.py [--quick] [--turns N] [--model NAME] [PART ...]

All have the same files and threads, a context of the same size for each conversation, decode greedily and
stream; they have as many slots as each other, unless a part says otherwise. They take turns, and who goes
first changes. Ours goes the whole way: client, NATS, the model's process and back. The others are asked over
HTTP. Attention is what each takes by itself: all use llama.cpp's flash attention, but ours not for small
heads (ADR 38). Parts and models can be named; `models` and `agents` always have the models that they need.

- `models`: two and three models that generate at once. A share is what a model makes while all generate, by
  what it makes alone in the same turn; the line of a model has both speeds. The sum of the shares is 1 where
  models do no better than one after the other: the line `shares` compares ours with that, `shares.router`
  with the router's sum.
- `agents`: 80 requests of 12 agents, two at a time, to four models with room for two: for the router a
  number, for ours the memory of the two largest. Each request carries its agent's whole conversation, and
  nothing else; for `agents.with_ids` ours is told the conversation's id too (ADR 15), for which the router
  has no word. Who asks next is drawn by Zipf's law. The time of all, the first token (median and 95th
  percentile), and `reuse`: the tokens not read again, of those that a server could still have. Only with the
  router.
- `beginnings`: eight agents that begin at the same moment with the same 1,000 tokens, then each its own end:
  the first token of the slowest.
- `long`: eight clients that generate from 700 tokens on, and 16 from 64 on: tokens of all by the time from
  the first request to the end of the last. The prompts were read in requests before. Ours has a slot for
  each client with a KV stream of its own, as it has by default where memory allows (ADR 35). It is compared
  with its unified form of the same size, and with llama.cpp's server, which has as many slots as there are
  clients, twice as many, or as many with one cache for all. For SmolLM2 the unified form is so large that it
  is computed with flash attention, and the separate one is not (ADR 38): `ours_unified` compares both
  decisions at once, as whoever sets `kv_cache` gets both.

Prints a line of JSON for each figure and each side that ours is compared with; `--quick` has one turn, one
model where there is a choice, and less of everything.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple

import anyio

from answers import Answer, Server, ours
from dialogue import Dialogue
from harness import OURS, Choice, choice, in_rotation, percentile, report, report_each
from models import MADE_IDS, MODEL_IDS, model_file
from peers import Router, router_program, running_llama_servers, running_router
from prompts import openings, scene
from service import CONTEXT_TOKENS, running_service

MODELS = {**MODEL_IDS, "smollm2-q4_0": MADE_IDS["smollm2-q4_0"]}
ROUTER = "router"
WITH_IDS = "ours_with_ids"

GROUPS = (("smollm2", "gemma3"), ("smollm2-q4_0", "gemma3"), ("smollm2", "gemma3", "smollm2-q4_0"))
ALONE_TOKENS = 96
TOGETHER_SECONDS = 3.0
"""How long all models generate at once if they do no worse than one after the other."""
ATTEMPTS = 3
"""A model may end an answer early, or share so unequally that another is done: then they are asked again."""
LONGEST_TOKENS = CONTEXT_TOKENS - 128
"""Of an answer: its prompt has less than the rest."""
GROUP_SLOTS = 2

AGENTS_MODELS = ("smollm2", "gemma3", "smollm2-q4_0", "gemma3-q4_0")
AGENTS, WORKERS, REQUESTS, QUICK_REQUESTS = 12, 2, 80, 4
AGENT_WORDS, AGENT_TURNS, AGENT_TOKENS = 250, 8, 24
AGENT_SLOTS = 8

BEGINNERS, BEGINNING_WORDS, QUICK_BEGINNING_WORDS, END_TOKENS = 8, 950, 60, 16

LONG_TOKENS, QUICK_LONG_TOKENS = 64, 16


class Length(NamedTuple):
    """Of `long`: how many clients, and how long their prompts are."""

    clients: int
    words: int
    prompt_tokens: range

    @property
    def name(self) -> str:
        return f"{self.clients}_clients"


LENGTHS = (Length(8, 680, range(640, 800)), Length(16, 60, range(50, 90)))
QUICK_LENGTHS = (Length(8, 60, range(50, 90)),)


def ids(names: Sequence[str]) -> Sequence[str]:
    known = {**MODEL_IDS, **MADE_IDS}
    return [known[name] for name in names]


async def read_all(answers: Sequence[Answer]) -> None:
    """At once."""
    await read_whatever(answers)
    assert all(answer.tokens for answer in answers), "an answer has no tokens"


async def read_whatever(answers: Sequence[Answer]) -> None:
    """At once; an answer may be empty."""
    async with anyio.create_task_group() as tasks:
        for answer in answers:
            tasks.start_soon(answer.read)


async def warm_up(servers: Sequence[Server]) -> None:
    for number, server in enumerate(servers):
        await server(openings(f"warm up {number}", 1)[0], 4).read()


def with_slots(slots: int) -> str:
    """A model's settings, with a whole context for each slot."""
    return f"slots = {slots}\ncache_tokens = {slots * CONTEXT_TOKENS}"


@asynccontextmanager
async def sides_of(
    model_ids: Sequence[str], *, slots: int, room: int, settings: str = ""
) -> AsyncIterator[Mapping[str, Mapping[str, Server]]]:
    """Ours and, where it is installed, the router: of each a server for each model, by the model's id.

    The router has room for so many models, ours for what its `settings` say.
    """
    async with AsyncExitStack() as stack:
        client, _ = await stack.enter_async_context(
            running_service(settings, model_ids=model_ids, model_settings=with_slots(slots))
        )
        sides: dict[str, Mapping[str, Server]] = {OURS: {id: ours(client, id) for id in model_ids}}
        if program := router_program():
            router = Router(models=[*map(model_file, model_ids)], room=room, slots=slots)
            sides[ROUTER] = await stack.enter_async_context(running_router(program, router))
        yield sides


# --- models that generate at once ---------------------------------------------------------------------------


class Speeds(NamedTuple):
    """Tokens per second of each model."""

    alone: Sequence[float]
    together: Sequence[float]

    @property
    def shares(self) -> float:
        return sum(together / alone for alone, together in zip(self.alone, self.together, strict=True))


async def speeds(servers: Sequence[Server], turn: int) -> Speeds:
    """Each alone, then all at once."""
    alone = [
        await speed_alone(server, f"models alone {len(servers)} {turn} {place}")
        for place, server in enumerate(servers)
    ]
    return Speeds(alone, await speeds_together(servers, alone, f"models together {len(servers)} {turn}"))


async def speed_alone(server: Server, seed: str) -> float:
    for prompt in openings(seed, ATTEMPTS):
        answer = await server(prompt, ALONE_TOKENS).read()
        if answer.tokens >= ALONE_TOKENS / 2 and len(answer.times) > 1:
            return answer.tokens_per_second(answer.times[0], answer.times[-1])
    raise AssertionError(f"the answers to {ATTEMPTS} prompts end too early")


async def speeds_together(servers: Sequence[Server], alone: Sequence[float], seed: str) -> Sequence[float]:
    """With other and longer answers if they did not generate at once for long enough."""
    prompts = iter(openings(seed, ATTEMPTS * len(servers)))
    for attempt in range(1, ATTEMPTS + 1):
        # So long that all of them end at about the same time if they share alike.
        seconds = attempt * TOGETHER_SECONDS / len(servers)
        answers = [
            server(prompt, min(LONGEST_TOKENS, round(seconds * speed)))
            for server, speed, prompt in zip(servers, alone, prompts, strict=False)
        ]
        await read_whatever(answers)
        begin, end = common_time(answers)
        if end - begin > TOGETHER_SECONDS / 4:
            return [answer.tokens_per_second(begin, end) for answer in answers]
    raise AssertionError(f"in {ATTEMPTS} attempts they did not generate at the same time")


def common_time(answers: Sequence[Answer]) -> tuple[float, float]:
    """From when all have begun until the first ends; nothing if one of them is empty."""
    if not all(answer.times for answer in answers):
        return 0.0, 0.0
    return max(answer.times[0] for answer in answers), min(answer.times[-1] for answer in answers)


async def compare_models(names: Sequence[str], *, turns: int) -> None:
    model_ids = ids(names)
    async with sides_of(model_ids, slots=GROUP_SLOTS, room=len(names)) as sides:
        for servers in sides.values():
            await warm_up([*servers.values()])
        figures = await in_rotation(
            {side: partial(speeds, [*servers.values()]) for side, servers in sides.items()}, turns
        )
    title = f"together.models.{'+'.join(names)}"
    for side, of_side in figures.items():
        for place, name in enumerate(names):
            together = statistics.median(each.together[place] for each in of_side)
            alone = statistics.median(each.alone[place] for each in of_side)
            report(f"{title}.{side}.{name}", together, alone, unit="tokens/s", better="higher")
    shares = {side: [each.shares for each in of_side] for side, of_side in figures.items()}
    report(f"{title}.shares", statistics.median(shares[OURS]), 1, unit="of its speed alone", better="higher")
    report_each(f"{title}.shares", shares, unit="of its speed alone")


# --- agents over more models than there is room for ---------------------------------------------------------


class Run(NamedTuple):
    seconds: float
    first_token_p50_ms: float
    first_token_p95_ms: float
    reused: float
    """Of the tokens that could be."""


class Agents:
    """Agents of several models, each with a conversation that grows, and the order in which they ask."""

    def __init__(self, servers: Sequence[Server], requests: int, seed: int, *, tell_ids: bool) -> None:
        self._servers = servers
        self._seed = seed
        self._tell_ids = tell_ids
        self._dialogues = [self._begin(agent, 0) for agent in range(AGENTS)]
        self._waiting = random.Random(seed).choices(
            range(AGENTS), weights=[1 / rank for rank in range(1, AGENTS + 1)], k=requests
        )
        self._busy: set[int] = set()
        self._begun = 0
        self._first_token_ms: list[float] = []
        self._reused_tokens = self._reusable_tokens = 0

    async def run(self) -> Run:
        began = time.perf_counter()
        async with anyio.create_task_group() as workers:
            for _ in range(WORKERS):
                workers.start_soon(self._work)
        assert not self._waiting, "requests were left"
        return Run(
            time.perf_counter() - began,
            percentile(self._first_token_ms, 50),
            percentile(self._first_token_ms, 95),
            self._reused_tokens / max(1, self._reusable_tokens),
        )

    async def _work(self) -> None:
        while (agent := self._next()) is not None:
            self._busy.add(agent)
            await self._ask(agent)
            self._busy.remove(agent)

    def _next(self) -> int | None:
        """The first that waits and is not asking; none at the end, when the other worker has the last one."""
        for place, agent in enumerate(self._waiting):
            if agent not in self._busy:
                return self._waiting.pop(place)
        return None

    async def _ask(self, agent: int) -> None:
        if self._dialogues[agent].turns == AGENT_TURNS:
            self._begun += 1
            self._dialogues[agent] = self._begin(agent, self._begun)
        dialogue = self._dialogues[agent]
        answer = await dialogue.turn(self._servers[agent % len(self._servers)], AGENT_TOKENS)
        assert answer.prompt_tokens, "a request was not answered"
        self._first_token_ms.append(answer.first_token_ms)
        self._reused_tokens += min(dialogue.reused_tokens, dialogue.reusable_tokens)
        self._reusable_tokens += dialogue.reusable_tokens

    def _begin(self, agent: int, number: int) -> Dialogue:
        # Other words with ids than without: the same service is asked both, and must not know them.
        seed = f"agents {'with ids ' if self._tell_ids else ''}{self._seed} {agent} {number}"
        return Dialogue(seed, AGENT_WORDS, tells_id=self._tell_ids)


async def run_agents(servers: Sequence[Server], requests: int, turn: int, *, tell_ids: bool = False) -> Run:
    run = await Agents(servers, requests, turn, tell_ids=tell_ids).run()
    print(f"{requests} requests: {run}", file=sys.stderr)
    return run


async def room_for_two(model_ids: Sequence[str]) -> str:
    """The memory limit, as a setting: for the two that need most, and not for the three that need least."""
    async with running_service(model_ids=model_ids, model_settings=with_slots(AGENT_SLOTS)) as (client, _):
        models = (await client.list_models()).models
    needs = sorted(
        model.estimate.total_bytes for model in models if model.model_id in model_ids and model.estimate
    )
    least, most = sum(needs[-2:]), sum(needs[:3])
    assert len(needs) == len(model_ids), "a model is missing"
    assert least < most, "the models differ too much"
    return f"memory_limit_gb = {(least + most) / 2 / 2**30}"


async def compare_agents(*, requests: int, turns: int) -> None:
    model_ids = ids(AGENTS_MODELS)
    memory = await room_for_two(model_ids)
    async with sides_of(model_ids, slots=AGENT_SLOTS, room=2, settings=memory) as sides:
        agents = {side: partial(run_agents, [*servers.values()], requests) for side, servers in sides.items()}
        agents[WITH_IDS] = partial(agents[OURS], tell_ids=True)
        runs = await in_rotation(agents, turns)
    report_agents("together.agents", {OURS: runs[OURS], ROUTER: runs[ROUTER]})
    report_agents("together.agents.with_ids", {OURS: runs[WITH_IDS], ROUTER: runs[ROUTER]})


def report_agents(title: str, runs: Mapping[str, Sequence[Run]]) -> None:
    for place, (name, unit) in enumerate(
        [("total", "s"), ("first_token.p50", "ms"), ("first_token.p95", "ms"), ("reuse", "of what could be")]
    ):
        figures = {side: [run[place] for run in of_side] for side, of_side in runs.items()}
        report_each(f"{title}.{name}", figures, unit=unit)


# --- one beginning for many ---------------------------------------------------------------------------------


async def slowest_beginner_ms(server: Server, words: int, turn: int) -> float:
    beginning = scene(f"beginning {turn}", words)
    answers = [
        server(f"{beginning}\n\n{end}", END_TOKENS) for end in openings(f"beginners {turn}", BEGINNERS)
    ]
    await read_all(answers)
    assert all(words < answer.prompt_tokens < 1.3 * words + 50 for answer in answers), "other prompts"
    return max(answer.first_token_ms for answer in answers)


async def compare_beginnings(name: str, *, words: int, turns: int) -> None:
    model_id = MODELS[name]
    async with (
        sides_of([model_id], slots=BEGINNERS, room=1) as of_models,
        running_llama_servers(
            model_file(model_id), BEGINNERS, CONTEXT_TOKENS, forms=("llama_server", "llama_server_unified")
        ) as peers,
    ):
        sides = {side: servers[model_id] for side, servers in of_models.items()} | dict(peers)
        await warm_up([*sides.values()])
        figures = await in_rotation(
            {side: partial(slowest_beginner_ms, server, words) for side, server in sides.items()}, turns
        )
    report_each(f"together.beginnings.{name}.first_token", figures, unit="ms")


# --- long contexts ------------------------------------------------------------------------------------------


async def long_speed(server: Server, length: Length, tokens: int, turn: int) -> float:
    prompts = [scene(f"long {length} {turn} {client}", length.words) for client in range(length.clients)]
    await read_all([server(prompt, 1) for prompt in prompts])
    answers = [server(prompt, tokens) for prompt in prompts]
    await read_all(answers)
    assert all(answer.prompt_tokens in length.prompt_tokens for answer in answers), answers[0].prompt_tokens
    assert all(answer.reused_tokens > 0.8 * answer.prompt_tokens for answer in answers), "read again"
    seconds = max(answer.ended for answer in answers) - min(answer.asked for answer in answers)
    return sum(answer.tokens for answer in answers) / seconds


async def compare_long(name: str, length: Length, *, tokens: int, turns: int) -> None:
    model_id = MODELS[name]
    settings = with_slots(length.clients)
    service = partial(running_service, model_ids=[model_id])
    async with (
        service(model_settings=settings) as (by_default, _),
        service(model_settings=f'{settings}\nkv_cache = "unified"') as (unified, _),
        running_llama_servers(model_file(model_id), length.clients, CONTEXT_TOKENS) as peers,
    ):
        sides = {OURS: ours(by_default, model_id), "ours_unified": ours(unified, model_id), **peers}
        await warm_up([*sides.values()])
        figures = await in_rotation(
            {side: partial(long_speed, server, length, tokens) for side, server in sides.items()}, turns
        )
    report_each(f"together.long.{name}.{length.name}", figures, unit="tokens/s")


# --- all ----------------------------------------------------------------------------------------------------


async def main(chosen: Choice) -> None:
    if router_program() is None:
        print("the comparisons with the router are left out: make bench-router", file=sys.stderr)
    turns = chosen.turns or (1 if chosen.quick else 5)
    if "models" in chosen.parts:
        for names in GROUPS[:1] if chosen.quick else GROUPS:
            await compare_models(names, turns=turns)
    if "agents" in chosen.parts and router_program():
        await compare_agents(requests=QUICK_REQUESTS if chosen.quick else REQUESTS, turns=turns)
    for name in chosen.models[:1] if chosen.quick else chosen.models:
        if "beginnings" in chosen.parts:
            words = QUICK_BEGINNING_WORDS if chosen.quick else BEGINNING_WORDS
            await compare_beginnings(name, words=words, turns=turns)
        if "long" in chosen.parts:
            tokens = QUICK_LONG_TOKENS if chosen.quick else LONG_TOKENS
            for length in QUICK_LENGTHS if chosen.quick else LENGTHS:
                await compare_long(name, length, tokens=tokens, turns=turns)


if __name__ == "__main__":
    parts = ("models", "agents", "beginnings", "long")
    anyio.run(main, choice(__doc__, parts=parts, models=MODELS), backend_options={"use_uvloop": True})
