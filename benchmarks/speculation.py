"""Answers with guesses of their next tokens and without: how fast they are, and whether the text is the same.

    .venv/bin/python benchmarks/speculation.py [--quick]

One service with default settings answers the same prompts greedily in turns, with `speculation` true and
false and with `reuse` false, so that both decode the whole prompt. Whether a step has guesses is decided by
the service as it measures (ADR 74): the figures have what it takes to find out. All parts are

- `copy`: a list of people, to be written once more. Nearly all of the answer stands in the prompt.
- `free`: stories are gone on with. What repeats is what the model repeats by itself.

each for one client and for eight at once. Speed is that of all answers after their first tokens: tokens by
the time from the first token to the last. Prints a line of JSON for each (higher is better), one with the
share of guesses that were right (`ours`) and of tokens that needed no step of their own (`reference`), and
one with the number of prompts (`reference`) and how many of them had the same text (`ours`). There are 50
prompts a part; `--quick` has six of them and one model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import anyio

from harness import Choice, choice, report
from models import MODEL_IDS
from prompts import WORDS, openings
from service import running_service
from suite.client import Client
from suite.messages.actions.generation import GenerateTextReply

PROMPTS, QUICK_PROMPTS = 50, 6
TOKENS = 96
CLIENTS = (1, 8)
LINES = 8


class Side(NamedTuple):
    """All answers of one side."""

    replies: Sequence[GenerateTextReply]
    seconds: float
    """From first tokens to last ones, of those that were generated at the same time only once."""

    @property
    def tokens_per_second(self) -> float:
        return sum(reply.usage.completion_tokens - 1 for reply in self.replies) / self.seconds


def copies(count: int) -> Sequence[str]:
    """Lists to write once more, all different."""
    return [_copy(random.Random(f"copy {number}")) for number in range(count)]


def _copy(dice: random.Random) -> str:
    names = [f"{dice.choice(WORDS).capitalize()} {dice.choice(WORDS)}" for _ in range(LINES)]
    people = "\n".join(f"{name}, {dice.randint(20, 80)}" for name in names)
    return f"The list of people:\n{people}\n\nThe same list of people once more:\n"


def stories(count: int) -> Sequence[str]:
    """Beginnings of stories, all different."""
    return openings("free", count)


PARTS = {"copy": copies, "free": stories}


async def answers(client: Client, model_id: str, prompts: Sequence[str], *, speculates: bool) -> Side:
    """What the model says to these prompts at once."""
    replies: dict[str, GenerateTextReply] = {}

    async def ask(prompt: str) -> None:
        replies[prompt] = await client.generate_text(
            model_id, prompt, max_tokens=TOKENS, temperature=0, reuse=False, speculation=speculates
        )

    async with anyio.create_task_group() as tasks:
        for prompt in prompts:
            tasks.start_soon(ask, prompt)
    every = [replies[prompt] for prompt in prompts]
    return Side(every, max(reply.timings.generation_ms for reply in every) / 1000)


async def compare(client: Client, model_id: str, prompts: Sequence[str], clients: int) -> tuple[Side, Side]:
    """All answers with guesses and without; who goes first changes from prompt to prompt."""
    sides: dict[bool, list[Side]] = {True: [], False: []}
    for turn, first in enumerate(range(0, len(prompts), clients)):
        together = prompts[first : first + clients]
        for speculates in (True, False) if turn % 2 else (False, True):
            sides[speculates].append(await answers(client, model_id, together, speculates=speculates))
    guessed, plain = map(_together, (sides[True], sides[False]))
    return guessed, plain


def _together(sides: Sequence[Side]) -> Side:
    return Side([reply for side in sides for reply in side.replies], sum(side.seconds for side in sides))


def tell(name: str, guessed: Side, plain: Side) -> None:
    speeds = guessed.tokens_per_second, plain.tokens_per_second
    report(name, *speeds, unit="tokens/s", better="higher")
    usages = [reply.usage for reply in guessed.replies]
    accepted = sum(usage.accepted_tokens for usage in usages)
    drafted = sum(usage.drafted_tokens for usage in usages)
    saved = accepted / sum(usage.completion_tokens for usage in usages)
    report(f"{name}.right", accepted / max(1, drafted), saved, unit="share", better="higher")
    pairs = zip(guessed.replies, plain.replies, strict=True)
    same = sum(one.text == other.text for one, other in pairs)
    report(f"{name}.same_text", same, len(plain.replies), unit="prompts", better="higher")


async def main(chosen: Choice) -> None:
    count = QUICK_PROMPTS if chosen.quick else PROMPTS
    for model in chosen.models[:1] if chosen.quick else chosen.models:
        model_id = MODEL_IDS[model]
        async with running_service(model_ids=[model_id]) as (client, _):
            await client.load_model(model_id)
            for part in chosen.parts:
                for clients in CLIENTS:
                    sides = await compare(client, model_id, PARTS[part](count), clients)
                    tell(f"speculation.{model}.{part}.{clients}_clients", *sides)


if __name__ == "__main__":
    anyio.run(partial(main, choice(__doc__, parts=PARTS, models=MODEL_IDS)))
