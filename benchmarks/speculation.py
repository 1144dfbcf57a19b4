"""Answers with guesses of their next tokens and without: how fast they are, and whether the text is the same.

    .venv/bin/python benchmarks/speculation.py [--quick]

One service with default settings answers the same prompts greedily in turns, with `speculation` true and
false and with `reuse` false, so that both decode the whole prompt. Whether a step has guesses is decided by
the service as it measures (ADR 74): the figures have what it takes to find out. All parts are

- `copy`: a list of people, to be written once more. Nearly all of the answer stands in the prompt.
- `free`: stories are gone on with. What repeats is what the model repeats by itself.

each for one client and for eight at once. Speed is that of all answers after their first tokens: tokens by
the time from the first token to the last. Prints a line of JSON for each (higher is better), and one with the
share of guesses that were right (`ours`) and of tokens that needed no step of their own (`reference`). There
are 50 prompts a part; `--quick` has six of them and one model. It has the other parts only if they are named:

- `same_text`: how many of 50 prompts of both kinds have the text that the model says of each alone, without
  guesses. With guesses (`ours`), and without (`reference`): for one client, for eight at once, and for one
  that asks a second time, so that all but the last token of the prompt is reused. What differs without
  guesses is the base rate: llama.cpp's last digits depend on what a batch has.
- `draft_model`: stories by a model that is six times as deep as SmolLM2 and says the same (`layers.py`),
  with small models that guess: SmolLM2 itself, which is always right, and SmolLM2 without 4 and without 15
  of its 30 layers. For one client. A pair of real models was not at hand.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio

from harness import Choice, choice, report
from layers import copy_with_layers
from models import MODEL_IDS, model_file
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


SPEEDS = {"copy": copies, "free": stories}
SAME_TEXT, DRAFT_MODEL = "same_text", "draft_model"
PARTS = (*SPEEDS, SAME_TEXT, DRAFT_MODEL)
LAYERS, ADDED_LAYERS = 30, 150
LEFT_OUT = (0, 4, 15)


async def answers(
    client: Client, model_id: str, prompts: Sequence[str], *, speculates: bool, reuse: bool = False
) -> Side:
    """What the model says to these prompts at once."""
    replies: dict[str, GenerateTextReply] = {}

    async def ask(prompt: str) -> None:
        replies[prompt] = await client.generate_text(
            model_id, prompt, max_tokens=TOKENS, temperature=0, reuse=reuse, speculation=speculates
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


async def texts(
    client: Client,
    model_id: str,
    prompts: Sequence[str],
    clients: int,
    *,
    speculates: bool,
    reuse: bool = False,
) -> Sequence[str]:
    """What the model says to these prompts, so many at once."""
    said: list[str] = []
    for first in range(0, len(prompts), clients):
        together = prompts[first : first + clients]
        side = await answers(client, model_id, together, speculates=speculates, reuse=reuse)
        said += [reply.text for reply in side.replies]
    return said


async def compare_texts(client: Client, model_id: str, name: str, prompts: Sequence[str]) -> None:
    """Tell how many texts are those that the model says of each prompt alone, with guesses and without."""
    say = partial(texts, client, model_id)
    alone = await say(prompts, 1, speculates=False)
    for clients in CLIENTS:
        guessed = await say(prompts, clients, speculates=True)
        plain = await say(prompts, clients, speculates=False)
        tell_same(f"{name}.{clients}_clients", alone, guessed, plain)
    again: dict[bool, list[str]] = {True: [], False: []}
    for prompt in prompts:
        for speculates in again:
            await say([prompt], 1, speculates=False, reuse=True)
            again[speculates] += await say([prompt], 1, speculates=speculates, reuse=True)
    tell_same(f"{name}.reused_prompt", alone, again[True], again[False])


def tell_same(name: str, alone: Sequence[str], guessed: Sequence[str], plain: Sequence[str]) -> None:
    """The numbers of prompts that have the text that was said alone, without guesses."""
    with_guesses, without = (
        sum(one == other for one, other in zip(alone, said, strict=True)) for said in (guessed, plain)
    )
    report(name, with_guesses, without, unit=f"of {len(alone)} prompts", better="higher")


async def compare_draft_models(name: str, count: int) -> None:
    """Tell how fast a deep model is with each draft model, and without."""
    source = model_file(MODEL_IDS["smollm2"])
    with tempfile.TemporaryDirectory() as directory:
        models = Path(directory)
        copy_with_layers(source, models / "deep.gguf", [*range(LAYERS), *[None] * ADDED_LAYERS])
        for left_out in LEFT_OUT:
            first = (LAYERS - left_out) // 2
            kept = [*range(first), *range(first + left_out, LAYERS)]
            draft = f"draft-{len(kept)}"
            copy_with_layers(source, models / f"{draft}.gguf", kept)
            settings = f'draft_model = "{draft}"'
            running = running_service(model_ids=["deep"], model_settings=settings, models_directory=models)
            async with running as (client, _):
                await client.load_model("deep")
                sides = await compare(client, "deep", stories(count), 1)
                tell(f"{name}.{len(kept)}_of_{LAYERS}_layers", *sides)


async def main(chosen: Choice) -> None:
    is_short = chosen.quick and set(chosen.parts) == set(PARTS)
    asked = [*SPEEDS] if is_short else chosen.parts
    if DRAFT_MODEL in asked:
        await compare_draft_models("speculation.draft_model", QUICK_PROMPTS)
    if parts := [part for part in asked if part != DRAFT_MODEL]:
        await compare_lookups(chosen, parts)


async def compare_lookups(chosen: Choice, parts: Sequence[str]) -> None:
    """All parts in which guesses come from the text itself."""
    count = QUICK_PROMPTS if chosen.quick else PROMPTS
    for model in chosen.models[:1] if chosen.quick else chosen.models:
        model_id = MODEL_IDS[model]
        async with running_service(model_ids=[model_id]) as (client, _):
            await client.load_model(model_id)
            for part in parts:
                name = f"speculation.{model}.{part}"
                if part == SAME_TEXT:
                    mixed = [*copies(count // 2), *stories(count - count // 2)]
                    await compare_texts(client, model_id, name, mixed)
                    continue
                for clients in CLIENTS:
                    sides = await compare(client, model_id, SPEEDS[part](count), clients)
                    tell(f"{name}.{clients}_clients", *sides)


if __name__ == "__main__":
    anyio.run(partial(main, choice(__doc__, parts=PARTS, models=MODEL_IDS)))
