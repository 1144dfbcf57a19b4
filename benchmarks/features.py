"""What the features of the suite cost those who use others of them, in one service.

    .venv/bin/python benchmarks/features.py [--quick] [--turns N] [PART ...]

In each part `ours` is the service with a feature in use, and the reference the same service without; both
take turns. All have the same models, threads and prompts that are new.

- `dashboards`: eight streams of one model through the gateway, while somebody looks on: one open page of the
  dashboard, eight of them, a terminal with `suite top` (each told something every second; they are a process
  of their own), against nobody. Tokens a second of all, and the worst first token.
- `bench_beside_users`: two users who go on asking, or who `pause` for a while after each answer, while `suite
  bench` measures their model, or another one that takes the same cores; against the same users without it.
  Then the figures of the benchmark, which ends when they have gone, against those on a quiet node, `seconds`
  from its start or from then, the `share` of all tokens that it made while they were there (the reference is
  an equal share of the streams), and in how many of its rounds it was `disturbed`, or `interrupted`, as it
  says.
- `mixed`: eight streams of one model at once, two each with a LoRA adapter, with guesses, with a picture, and
  plain, against eight of one kind. `difference` is the largest difference of the logarithm of a token's
  probability from that of the same answer alone, as far as both say the same; the reference is what eight
  plain streams differ by, which is due to the shape of batches. `same` are answers with the same text.
- `promotion`: three users chat under an alias and a fourth uses a third model, with memory for two of the
  three; a version is promoted to the alias with a share of the requests first, and then by hand. Against the
  same users without a promotion: requests that `failed`, the longest wait of any user for the next text
  (`gap`), first tokens, and how many requests the version has answered while it was a canary.

Prints a line of JSON for each figure; `--quick` has one turn and less of everything.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import anyio

from answers import completions, ours
from gateway import Http, running_gateway
from harness import Better, Choice, choice, in_rotation, report
from models import MADE_IDS, MODEL_IDS, model_file
from prompts import scene
from service import CONTEXT_TOKENS, THREADS, running_service
from speculation import copies
from suite.client import Client
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.benchmarks import BenchmarkResult, Mean
from suite.messages.events import CanaryStarted, Generated, Promoted
from together import AGENT_SLOTS, read_all, room_for_two, warm_up, with_slots
from users import PAUSE_SECONDS, Served, Users
from watchers import watching

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from support.adapters import adapter
from support.models import CHAT_TEMPLATE
from support.pictures import in_base64, noisy_picture
from support.projector import tiny_projector

SMOLLM, GEMMA, OTHER = MODEL_IDS["smollm2"], MODEL_IDS["gemma3"], MADE_IDS["smollm2-q4_0"]
WITHOUT = "without"

STREAMS, PROMPT_WORDS = 8, 40
TOKENS, QUICK_TOKENS = 96, 24
LOOKERS: Mapping[str, tuple[int, int]] = {
    WITHOUT: (0, 0),
    "1_page": (1, 0),
    "8_pages": (8, 0),
    "top": (0, 1),
    "8_pages_and_top": (8, 1),
}
"""How many pages are open, and how many terminals."""

USERS, USER_SECONDS, QUICK_USER_SECONDS = 2, 20.0, 6.0
BENCH_STREAMS, BENCH_ROUNDS, BENCH_TOKENS = (1, 4), 4, 32
LONG_PAUSE_SECONDS = 4.0
"""Of users who do not ask again at once: longer than a benchmark waits for them to come back."""
BENCH_SECONDS = 300.0
"""A benchmark that takes longer when the users have gone is given up."""

SEEING, PICTURE_SIDE = "seeing", 64
GEMMA_EMBEDDING, GEMMA_LENGTH = 640, 26.1
"""The width of Gemma's embeddings, and their length: longer ones of pictures would magnify differences."""
MIXED_TOKENS, QUICK_MIXED_TOKENS = 48, 12

ALIAS, CANARY_SHARE, CHATTING = "chat", 0.3, 3
STEP_SECONDS, QUICK_STEP_SECONDS = 8.0, 1.5
PROMOTION_SECONDS = 120.0


FIGURES: Mapping[str, tuple[str, Better]] = {
    "tokens_per_second": ("tokens/s", "higher"),
    "first_token_ms": ("ms", "lower"),
    "worst_first_token_ms": ("ms", "lower"),
    "first_token_p50_ms": ("ms", "lower"),
    "first_token_p95_ms": ("ms", "lower"),
    "longest_gap_ms": ("ms", "lower"),
    "answered": ("requests", "higher"),
    "failed": ("requests", "lower"),
}
"""The unit of each figure, and which is better."""
OF_USERS = (
    "failed",
    "answered",
    "longest_gap_ms",
    "first_token_p50_ms",
    "first_token_p95_ms",
    "tokens_per_second",
)


def report_figure(name: str, field: str, with_it: Iterable[float], without: Iterable[float]) -> None:
    """The median of the turns of each side; of requests that failed the most."""
    unit, better = FIGURES[field]
    of_turns = max if field == "failed" else statistics.median
    report(f"{name}.{field}", of_turns(with_it), of_turns(without), unit=unit, better=better)


def report_users(name: str, with_it: Sequence[Served], without: Sequence[Served]) -> None:
    for field in OF_USERS:
        sides = ([getattr(each, field) for each in side] for side in (with_it, without))
        report_figure(name, field, *sides)


# --- pages and terminals ------------------------------------------------------------------------------------


class Streamed(NamedTuple):
    """Of one turn of one side."""

    tokens_per_second: float
    worst_first_token_ms: float


async def watched(http: Http, side: str, tokens: int, turn: int) -> Streamed:
    """Streams while somebody looks on."""
    pages, tops = LOOKERS[side]
    server, port = completions(http.url, SMOLLM), int(http.url.rpartition(":")[2])
    prompts = [scene(f"watched {side} {turn} {number}", PROMPT_WORDS) for number in range(STREAMS)]
    answers = [server(prompt, tokens) for prompt in prompts]
    async with watching(http.access, port, pages=pages, tops=tops):
        await read_all(answers)
    seconds = max(each.ended for each in answers) - min(each.asked for each in answers)
    return Streamed(
        sum(each.tokens for each in answers) / seconds, max(each.first_token_ms for each in answers)
    )


async def compare_dashboards(*, tokens: int, turns: int) -> None:
    async with running_gateway(SMOLLM, STREAMS) as http:
        await warm_up([completions(http.url, SMOLLM)])
        sides = {side: partial(watched, http, side, tokens) for side in LOOKERS}
        figures = await in_rotation(sides, turns)
    for field in Streamed._fields:
        values = {side: [getattr(each, field) for each in of_side] for side, of_side in figures.items()}
        for side in (each for each in LOOKERS if each != WITHOUT):
            report_figure(f"features.dashboards.{side}", field, values[side], values[WITHOUT])


# --- a benchmark beside users -------------------------------------------------------------------------------


class Beside(NamedTuple):
    """Of one turn of one side: of users, of a benchmark, or of both."""

    users: Served | None
    result: BenchmarkResult | None
    seconds: float
    """For how long there were users; without any, how long the benchmark took."""
    bench_seconds: float = 0.0
    """How long it took when they had gone."""
    bench_tokens: int = 0
    """How many tokens it made while they were there."""


class Habit(NamedTuple):
    """How users ask."""

    name: str
    pause_seconds: float


HABITS = (Habit("users", PAUSE_SECONDS), Habit("pausing_users", LONG_PAUSE_SECONDS))


async def users_alone(client: Client, habit: Habit, seconds: float, turn: int) -> Beside:
    seed = f"{habit.name} alone {turn}"
    users = Users(ours(client, SMOLLM), USERS, seed, pause_seconds=habit.pause_seconds)
    began = time.perf_counter()
    async with users.asking():
        await anyio.sleep(seconds)
    return Beside(users.served(began, time.perf_counter()), None, seconds)


async def benchmark_alone(client: Client, model_id: str, rounds: int, _turn: int) -> Beside:
    began = time.perf_counter()
    return Beside(None, await measured(client, model_id, rounds), time.perf_counter() - began)


async def benchmark_beside(
    client: Client, model_id: str, rounds: int, habit: Habit, seconds: float, turn: int
) -> Beside:
    """Users who are there for a while, and a benchmark that begins among them and ends when it can."""
    seed = f"{habit.name} beside {model_id} {turn}"
    users = Users(ours(client, SMOLLM), USERS, seed, pause_seconds=habit.pause_seconds)
    results: list[BenchmarkResult] = []
    finished = 0.0

    async def measure() -> None:
        nonlocal finished
        results.append(await measured(client, model_id, rounds))
        finished = time.perf_counter()

    async with anyio.create_task_group() as tasks:
        async with users.asking():
            await anyio.sleep(1.0)  # they are in the middle of it
            before, began = await tokens_of_benchmarks(client), time.perf_counter()
            tasks.start_soon(measure)
            await anyio.sleep(seconds)
            after, ended = await tokens_of_benchmarks(client), time.perf_counter()
        gone = time.perf_counter()
    return Beside(
        users.served(began, ended), results[0], ended - began, max(0.0, finished - gone), after - before
    )


async def tokens_of_benchmarks(client: Client) -> int:
    """How many tokens benchmarks have made, as far as the log knows: also of answers that were cut."""
    tokens = 0
    async for recorded in client.events("usage.*.generated"):
        if isinstance(recorded.data, Generated) and recorded.data.requester == "benchmark":
            tokens += recorded.data.completion_tokens
    return tokens


async def measured(client: Client, model_id: str, rounds: int) -> BenchmarkResult:
    with anyio.fail_after(BENCH_SECONDS):
        reply = await client.run_benchmark(
            model_id, streams=BENCH_STREAMS, rounds=rounds, answer_tokens=BENCH_TOKENS
        )
    assert reply.result is not None, "it has no result"
    return reply.result


async def compare_bench(model_id: str, name: str, *, rounds: int, seconds: float, turns: int) -> None:
    async with running_service(model_ids=sorted({SMOLLM, model_id})) as (client, _):
        for each in sorted({SMOLLM, model_id}):
            await warm_up([ours(client, each)])
        sides = {"quiet": partial(benchmark_alone, client, model_id, rounds)}
        for habit in HABITS:
            stay = seconds + 2 * habit.pause_seconds
            sides[f"{habit.name} alone"] = partial(users_alone, client, habit, stay)
            sides[habit.name] = partial(benchmark_beside, client, model_id, rounds, habit, stay)
        figures = await in_rotation(sides, turns)
    for habit in HABITS:
        beside, alone = (
            [each.users for each in figures[side] if each.users is not None]
            for side in (habit.name, f"{habit.name} alone")
        )
        report_users(f"features.bench_beside_users.{name}.{habit.name}", beside, alone)
        report_benchmark(
            f"features.bench_beside_users.{name}.{habit.name}.bench", figures[habit.name], figures["quiet"]
        )


def report_benchmark(name: str, beside: Sequence[Beside], quiet: Sequence[Beside]) -> None:
    report(
        f"{name}.seconds",
        statistics.median(each.bench_seconds for each in beside),
        statistics.median(each.seconds for each in quiet),
        unit="s",
        better="lower",
    )
    for place, streams in enumerate(BENCH_STREAMS):
        for field in ("first_token_ms", "tokens_per_second"):
            sides = ([figure(each.result, place, field) for each in side] for side in (beside, quiet))
            report_figure(f"{name}.{streams}_streams", field, *sides)
    shares = [share_of(each) for each in beside]
    equal = statistics.mean(BENCH_STREAMS) / (statistics.mean(BENCH_STREAMS) + USERS)
    report(f"{name}.share", statistics.median(shares), equal, unit="of all tokens", better="lower")
    for side, of_side in (("beside", beside), ("quiet", quiet)):
        rounds = [rounds_of(each.result) for each in of_side if each.result is not None]
        results = [each.result for each in of_side if each.result is not None]
        disturbed = sum(each.disturbed_rounds for each in results)
        report(f"{name}.disturbed.{side}", disturbed, sum(rounds), unit="rounds", better="lower")
        interrupted = sum(getattr(each, "interrupted", 0) for each in results)
        report(f"{name}.interrupted.{side}", interrupted, sum(rounds), unit="rounds", better="lower")


def figure(result: BenchmarkResult | None, place: int, field: str) -> float:
    assert result is not None, "it has no result"
    found: Mean | None = getattr(result.speed[place], field)
    assert found is not None, "its answers had no tokens"
    return found.mean


def rounds_of(result: BenchmarkResult) -> int:
    return sum(each.first_token_ms.samples for each in result.speed)


def share_of(turn: Beside) -> float:
    """How much of all tokens the benchmark has made while there were users."""
    assert turn.users is not None, "there were no users"
    own = turn.bench_tokens / turn.seconds
    return own / (own + turn.users.tokens_per_second)


# --- adapters, guesses and pictures in one model ------------------------------------------------------------


Fields: TypeAlias = Mapping[str, Any]
"""Of a request: what is asked, and with what."""


class Mixed(NamedTuple):
    """Of one turn of one side."""

    tokens_per_second: float
    difference: float
    """The largest of the logarithm of a token's probability from that of the same answer alone."""
    same: int
    """How many answers have the same text as alone."""


def plain(number: int) -> Fields:
    return {"prompt": scene(f"mixed {number}", PROMPT_WORDS), "speculation": False}


def guessed(number: int) -> Fields:
    return {"prompt": copies(number + 1)[number], "speculation": True}


def adapted(number: int) -> Fields:
    return {**plain(number), "adapters": "poet" if number % 2 else "pirate"}


def pictured(number: int) -> Fields:
    parts = [
        {"type": "image", "data": in_base64(noisy_picture(number, PICTURE_SIDE))},
        {"type": "text", "text": scene(f"mixed {number}", PROMPT_WORDS)},
    ]
    return {"messages": [{"role": "user", "content": parts}], "speculation": False}


KINDS: Mapping[str, Callable[[int], Fields]] = {
    "plain": plain,
    "adapters": adapted,
    "guesses": guessed,
    "pictures": pictured,
}


def questions(side: str, turn: int) -> Sequence[Fields]:
    """Of all kinds for the side `mixed`, else of one kind; what two sides both have is the same."""
    kinds = list(KINDS) if side == "mixed" else [side]
    return [KINDS[kind](turn * STREAMS + place) for kind in kinds for place in range(STREAMS // len(kinds))]


async def ask(client: Client, fields: Fields, tokens: int) -> GenerateTextReply:
    return await client.generate_text(
        SEEING, max_tokens=tokens, temperature=0, reuse=False, logprobs=0, **fields
    )


async def mixed(client: Client, side: str, tokens: int, turn: int) -> Mixed:
    """All at once, then each alone."""
    asked = questions(side, turn)
    replies: dict[int, GenerateTextReply] = {}

    async def ask_one(number: int) -> None:
        replies[number] = await ask(client, asked[number], tokens)

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(len(asked)):
            tasks.start_soon(ask_one, number)
    seconds = time.perf_counter() - began
    alone = [await ask(client, question, tokens) for question in asked]
    pairs = [(replies[number], reply) for number, reply in enumerate(alone)]
    return Mixed(
        sum(reply.usage.completion_tokens for reply in replies.values()) / seconds,
        max(difference(*pair) for pair in pairs),
        sum(one.text == other.text for one, other in pairs),
    )


def difference(one: GenerateTextReply, other: GenerateTextReply) -> float:
    """The largest difference of the logarithm of a token's probability, as long as both say the same."""
    assert one.logprobs, "an answer has no tokens"
    assert other.logprobs, "an answer has no tokens"
    largest = 0.0
    for left, right in zip(one.logprobs, other.logprobs, strict=False):
        if left.token != right.token:
            break
        largest = max(largest, abs(left.logprob - right.logprob))
    return largest


SEEING_SETTINGS = f"""
[models.{SEEING}]
context_length = {CONTEXT_TOKENS}
n_gpu_layers = 0
n_threads = {THREADS}
slots = {STREAMS}
chat_template = '''{CHAT_TEMPLATE}'''
"""


@asynccontextmanager
async def seeing_model() -> AsyncIterator[Client]:
    """A service with a model that reads pictures and has two adapters. The projector's weights are random."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "models"
        directory.mkdir()
        path = directory / f"{SEEING}.gguf"
        shutil.copyfile(model_file(GEMMA), path)
        projector = directory / f"mmproj-{SEEING}.gguf"
        tiny_projector(projector, embedding=GEMMA_EMBEDDING, length=GEMMA_LENGTH)
        for seed, name in enumerate(("pirate", "poet")):
            adapter(directory / f"{name}.gguf", path, strength=0.1, seed=seed)
        service = running_service(SEEING_SETTINGS, model_ids=(), models_directory=directory)
        async with service as (client, _):
            await client.load_model(SEEING)
            yield client


async def compare_mixed(*, tokens: int, turns: int) -> None:
    async with seeing_model() as client:
        for fields_of in KINDS.values():
            await ask(client, fields_of(turns * STREAMS), 4)
        sides = {side: partial(mixed, client, side, tokens) for side in ("mixed", *KINDS)}
        figures = await in_rotation(sides, turns)
    of = {
        side: Mixed(*map(statistics.median, zip(*of_side, strict=True))) for side, of_side in figures.items()
    }
    for kind in KINDS:
        report(
            f"features.mixed.tokens_per_second.{kind}",
            of["mixed"].tokens_per_second,
            of[kind].tokens_per_second,
            unit="tokens/s",
            better="higher",
        )
    for side in ("mixed", *KINDS):
        name = f"features.mixed.difference.{side}"
        report(name, of[side].difference, of["plain"].difference, unit="nats", better="lower")
        report(f"features.mixed.same.{side}", of[side].same, STREAMS, unit="answers", better="higher")


# --- a promotion while users chat ---------------------------------------------------------------------------


class Chatted(NamedTuple):
    """Of one turn of one side."""

    users: Served
    of_third_model: Served
    canary_answers: int
    """How many requests the version has answered before it was promoted."""


async def chatting(client: Client, step_seconds: float, turn: int, *, promotes: bool) -> Chatted:
    """Users of the alias and one of a third model; the promotion goes on meanwhile."""
    await client.set_alias(ALIAS, f"{SMOLLM}@1")
    for each in (OTHER, GEMMA):
        await client.unload_model(each)
    await client.load_model(SMOLLM)
    after = await client.last_seq()
    seed = f"chat {promotes} {turn}"
    users = Users(ours(client, ALIAS), CHATTING, seed)
    other = Users(ours(client, GEMMA), 1, f"{seed} third")
    began = time.perf_counter()
    async with users.asking(), other.asking():
        await anyio.sleep(step_seconds)
        if promotes:
            await promote(client, step_seconds)
        else:
            await anyio.sleep(step_seconds)
        await anyio.sleep(step_seconds)
    ended = time.perf_counter()
    return Chatted(
        users.served(began, ended), other.served(began, ended), await canary_answers(client, after)
    )


async def versions_known(client: Client, model_ids: Sequence[str]) -> None:
    """Wait until the log knows the models, a moment after their files were read."""
    with anyio.fail_after(PROMOTION_SECONDS):
        while not set(model_ids) <= {each.model_id for each in (await client.list_versions()).versions}:
            await anyio.sleep(0.1)


async def promote(client: Client, canary_seconds: float) -> None:
    """With a share of the requests first, and then whole."""
    await client.promote_alias(ALIAS, f"{OTHER}@1", canary_share=CANARY_SHARE)
    await until(client, is_canary=True)
    await anyio.sleep(canary_seconds)
    await client.promote_alias(ALIAS, f"{OTHER}@1")
    await until(client, is_canary=False)


async def until(client: Client, *, is_canary: bool) -> None:
    """Wait until a version has its share, or until it serves alone."""
    with anyio.fail_after(PROMOTION_SECONDS):
        while True:
            (alias,) = (await client.list_aliases(ALIAS)).aliases
            if alias.promotion is None:
                assert not is_canary, "the promotion has ended"
                return
            if is_canary and alias.promotion.state == "canary":
                return
            await anyio.sleep(0.1)


async def canary_answers(client: Client, after: int) -> int:
    """How many requests the version has answered from when it had a share until it served alone."""
    count = is_canary = 0
    async for event in client.events(after=after):
        match event.data:
            case CanaryStarted():
                is_canary = 1
            case Promoted():
                is_canary = 0
            case Generated(model_id=model_id) if model_id == OTHER:
                count += is_canary
            case _:
                pass
    return count


async def compare_promotion(*, step_seconds: float, turns: int) -> None:
    model_ids = [SMOLLM, OTHER, GEMMA]
    memory = await room_for_two(model_ids)
    async with running_service(memory, model_ids=model_ids, model_settings=with_slots(AGENT_SLOTS)) as (
        client,
        _,
    ):
        await versions_known(client, model_ids)
        sides = {
            "promoted": partial(chatting, client, step_seconds, promotes=True),
            WITHOUT: partial(chatting, client, step_seconds, promotes=False),
        }
        figures = await in_rotation(sides, turns)
    promoted, without = figures["promoted"], figures[WITHOUT]
    report_users(
        "features.promotion.users", [each.users for each in promoted], [each.users for each in without]
    )
    of_third = ([each.of_third_model for each in side] for side in (promoted, without))
    report_users("features.promotion.third_model", *of_third)
    canaries = statistics.median(each.canary_answers for each in promoted)
    answered = statistics.median(each.users.answered for each in promoted)
    report("features.promotion.canary", canaries, answered, unit="requests", better="higher")


async def main(chosen: Choice) -> None:
    is_quick = chosen.quick
    turns = chosen.turns or (1 if is_quick else 5)
    if "dashboards" in chosen.parts:
        await compare_dashboards(tokens=QUICK_TOKENS if is_quick else TOKENS, turns=turns)
    if "bench_beside_users" in chosen.parts:
        for name, model_id in [("same_model", SMOLLM), ("other_model", GEMMA)][: 1 if is_quick else 2]:
            await compare_bench(
                model_id,
                name,
                rounds=1 if is_quick else BENCH_ROUNDS,
                seconds=QUICK_USER_SECONDS if is_quick else USER_SECONDS,
                turns=turns,
            )
    if "mixed" in chosen.parts:
        await compare_mixed(tokens=QUICK_MIXED_TOKENS if is_quick else MIXED_TOKENS, turns=turns)
    if "promotion" in chosen.parts:
        await compare_promotion(step_seconds=QUICK_STEP_SECONDS if is_quick else STEP_SECONDS, turns=turns)


if __name__ == "__main__":
    parts = ("dashboards", "bench_beside_users", "mixed", "promotion")
    anyio.run(main, choice(__doc__, parts=parts, models=MODEL_IDS), backend_options={"use_uvloop": True})
