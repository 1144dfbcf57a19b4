"""``suite bench``, ``suite benchmarks``, ``suite cancel-benchmark``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from suite.cli.completion import model_ids
from suite.cli.invocation import arguments
from suite.cli.model_ids import about_model, for_model, known_ids
from suite.cli.options import Target, client_command, fleet_command, limit_option, window_options
from suite.errors import BenchmarkNotFound, NodeLost, NoService, Unavailable

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.benchmark import BenchmarkInfo, GetBenchmarksReply, RunBenchmarkReply
    from suite.messages.benchmarks import BenchmarkResult, Mean, Quality, Share, Speed
    from suite.messages.signals import Benchmarking


_DEFAULT: Final = ParameterSource.DEFAULT
_MEASURED: Final = ("questions", "judge", "streams", "rounds", "prompt_tokens", "answer_tokens", "cycle")
"""The options that say what is measured."""


def _numbers(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    """Parse ``1,4,8``. Raises BadParameter."""
    try:
        return tuple(int(each) for each in value.split(",") if each.strip())
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 1,4,8") from None


def _read(path: Path | None) -> str | None:
    """Read a file of questions. Raises BadParameter."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint="'--set'") from None
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{path} is not UTF-8 text: {error.reason}", param_hint="'--set'") from None


@click.command()
@click.argument("model", required=False, shell_complete=model_ids)
@click.option(
    "--set",
    "questions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Questions, a JSON object a line, at most 256 KiB and 2,000 lines; see below.  "
    "[default: only the speed is measured]",
)
@click.option(
    "--judge",
    shell_complete=model_ids,
    help="Only for questions with judge: the model that judges, which needs a chat template.",
)
@click.option(
    "--streams",
    default="1,4,8",
    show_default=True,
    callback=_numbers,
    help="Generations beside each other to measure the speed with; empty: do not.",
)
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="How many times each."
)
@click.option(
    "--prompt-tokens", type=click.IntRange(1), help="Length of the prompts.  [default: 256, if they fit]"
)
@click.option(
    "--answer-tokens", type=click.IntRange(2), help="Length of the answers.  [default: 64, if they fit]"
)
@click.option("--cycle", help="Cycle of the evaluation.  [default: bench- and the time]")
@click.option(
    "--id",
    "benchmark_id",
    help="Id of the benchmark. One that was started before is followed, or shown, also without MODEL.  "
    "[default: a new one]",
)
@click.option("--no-wait", is_flag=True, help="Return when the benchmark is in the log.")
@click.pass_context
@client_command
def bench(
    target: Target,
    context: click.Context,
    model: str | None,
    questions: Path | None,
    judge: str | None,
    streams: tuple[int, ...],
    rounds: int,
    prompt_tokens: int | None,
    answer_tokens: int | None,
    cycle: str | None,
    benchmark_id: str | None,
    no_wait: bool,
) -> None:
    """Measure how fast MODEL is and, with --set, how well it answers; the result is an evaluation of it.

    The benchmark is a job of the node that has the model: it goes on when this command is stopped, and after
    a restart of the node. All figures have 95 % confidence intervals. Others who use the node go first: it
    waits for them, and stops when they come.

    A line of the set has a "prompt" (and may have "system" and "max_tokens"), and one of "exact", "contains",
    "pattern" (these also with "ignore_case"), "json_schema", and "judge", which is what another model judges
    the answer by. The set is kept in the log; answers are not.

    \b
    Examples:
      suite bench smollm2 --streams 1,4 --rounds 3
      suite bench smollm2 --set questions.jsonl --judge smollm2 --streams ""
      suite bench smollm2 --id w48 --no-wait
      suite bench --id w48
    """
    from suite.cli.output import json_line
    from suite.identity import new_id

    chosen = benchmark_id or new_id()
    set_jsonl = _read(questions)
    measures = [name for name in _MEASURED if context.get_parameter_source(name) is not _DEFAULT]
    if model is None and (benchmark_id is None or measures):
        raise click.UsageError("give the MODEL to measure, or only the --id of a benchmark to follow")

    async def run(client: Client) -> RunBenchmarkReply:
        if benchmark_id is not None and not measures:
            try:
                return await _followed(client, benchmark_id, model, wait=not no_wait, as_json=target.as_json)
            except BenchmarkNotFound:
                if model is None:
                    raise
        assert model is not None, "without one a benchmark is followed"
        return await for_model(client, model, partial(start, client))

    async def start(client: Client, model_id: str) -> RunBenchmarkReply:
        judges = await known_ids(client, [] if judge is None else [judge])
        with _shown(f"of {model_id}", target.as_json) as on_progress:
            return await client.run_benchmark(
                model_id,
                set_jsonl=set_jsonl,
                judge=next(iter(judges), None),
                streams=streams,
                rounds=rounds,
                prompt_tokens=prompt_tokens,
                answer_tokens=answer_tokens,
                cycle_id=cycle,
                benchmark_id=chosen,
                wait=not no_wait,
                on_progress=on_progress,
            )

    with _goes_on(chosen):
        reply = target.run(run)
    if target.as_json:
        json_line(reply)
    else:
        _show(reply)


async def _followed(
    client: Client, benchmark_id: str, model: str | None, *, wait: bool, as_json: bool
) -> RunBenchmarkReply:
    """What becomes of a benchmark that was started before. Raises BenchmarkNotFound."""
    named = await known_ids(client, [] if model is None else [model])
    with _shown(benchmark_id, as_json) as on_progress:
        return await client.follow_benchmark(
            benchmark_id, model_id=next(iter(named), None), wait=wait, on_progress=on_progress
        )


@contextmanager
def _goes_on(benchmark_id: str) -> Iterator[None]:
    """Say of a benchmark that is not waited for any more how to see what becomes of it."""
    follow, end = _following(benchmark_id), arguments("cancel-benchmark", benchmark_id)
    hint = (
        f"if the benchmark {benchmark_id} was started, it goes on: `suite {follow}` follows it, "
        f"`suite {end}` ends it"
    )
    try:
        yield
    except (KeyboardInterrupt, NodeLost, NoService, Unavailable) as error:
        error.add_note(hint)
        raise


def _following(benchmark_id: str) -> str:
    """The command that waits for a benchmark, as a shell takes it."""
    return arguments("bench", options=(f"--id={benchmark_id}",))


@contextmanager
def _shown(which: str, as_json: bool) -> Iterator[Any]:
    """Show on a terminal how far a benchmark is."""
    from suite.cli.output import Bar

    with Bar(f"benchmark {which}", shown=not as_json) as bar:

        def show(progress: Benchmarking) -> None:
            waits = f"waits until nobody else uses {progress.node}" if progress.waits else ""
            bar.advance(progress.done / progress.total if progress.total else 0.0, waits)

        yield show


def _show(reply: RunBenchmarkReply) -> None:
    from suite.cli.output import folded, printable

    for each in reply.broken_lines:
        click.echo(printable(f"line {each.line} of the set is left out: {each.problem}"), err=True)
    if reply.result is None:
        follow = f"`suite {_following(reply.benchmark_id)}` follows it"
        job = f"the benchmark {reply.benchmark_id} of {reply.model_id} is a job of {reply.runs_on}"
        folded(f"{job}: {follow}", indent=2)
        return
    _show_result(reply.model_id, reply.runs_on, reply.result)
    folded(f"evaluation {reply.evaluation_id} (event {reply.seq})", indent=2)


def _show_result(model_id: str, node: str, result: BenchmarkResult) -> None:
    from suite.cli.output import duration, folded, table
    from suite.units import size

    if result.load is not None:
        loaded = f"loaded in {duration(result.load.load_ms)}, {size(result.load.resident_bytes)}"
        folded(f"{model_id} on {node}: {loaded}", indent=2)
    if result.speed:
        table(
            ["streams>", "first token ms>", "prompt tokens/s>", "decode tokens/s>", "throughput tokens/s>"],
            [_speed_row(each) for each in result.speed],
            title=f"prompts of {result.prompt_tokens} tokens, answers of up to {result.answer_tokens}",
        )
    for line in _lines_of_others(result):
        folded(line, indent=2)
    if result.quality is not None:
        folded(_quality_line(result.quality), indent=2)


def _lines_of_others(result: BenchmarkResult) -> Iterator[str]:
    from suite.explanation.words import counted, span

    if result.waited_seconds:
        times = counted(result.interrupted, "time")
        again = f", and measured again what others had interrupted, {times}" if result.interrupted else ""
        yield f"waited {span(result.waited_seconds)} until nobody else used the node{again}"
    if result.disturbed_rounds:
        rounds = counted(sum(each.first_token_ms.samples for each in result.speed), "round")
        yield (
            f"others used the node during {result.disturbed_rounds} of {rounds}: to see the model alone, "
            "measure again when nobody does"
        )


def _speed_row(speed: Speed) -> tuple[str, ...]:
    each = (
        speed.first_token_ms,
        speed.prompt_tokens_per_second,
        speed.tokens_per_second,
        speed.total_tokens_per_second,
    )
    return str(speed.streams), *map(interval, each)


def interval(value: Mean | None) -> str:
    """A mean and its confidence interval."""
    from suite.cli.output import number

    if value is None:
        return ""
    if value.low is None or value.high is None:
        return number(value.mean)
    return f"{number(value.mean)} ({number(value.low)} to {number(value.high)})"


def percent(value: Share | None) -> str:
    """A share and its confidence interval."""
    if value is None:
        return ""
    return f"{value.share:.0%} ({value.low:.0%} to {value.high:.0%})".replace("%", " %")


def _quality_line(quality: Quality) -> str:
    from suite.explanation.words import counted

    parts = [f"{quality.passed} of {counted(quality.passed + quality.failed, 'answer')} passed"]
    if quality.accuracy is not None:
        parts.append(percent(quality.accuracy))
    if quality.unclear:
        parts.append(f"the judge was unclear about {quality.unclear} more")
    if quality.refused:
        parts.append(f"{counted(quality.refused, 'question')} refused")
    if quality.broken_lines:
        parts.append(counted(quality.broken_lines, "broken line"))
    return ", ".join(parts)


@click.command()
@click.option("--model", shell_complete=model_ids, help="Only of this model.")
@window_options
@limit_option()
@fleet_command
def benchmarks(target: Target, model: str | None, since: str | None, until: str | None, limit: int) -> None:
    """List benchmarks, the one started last in front, also those that wait or run.

    \b
    Examples:
      suite benchmarks
      suite benchmarks --model smollm2 --json
    """
    from suite.cli.output import json_line, more

    async def work(client: Client) -> GetBenchmarksReply:
        ask = partial(client.get_benchmarks, since=since, until=until, limit=limit)
        return await about_model(client, model, ask, is_empty=lambda reply: not reply.benchmarks)

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    elif reply.benchmarks:
        _show_list(reply.benchmarks)
        more(reply.next_cursor)
    else:
        click.echo("no benchmarks: `suite bench MODEL` runs one")


def _show_list(benchmarks: Iterable[BenchmarkInfo]) -> None:
    from suite.cli.output import local_time, table

    rows = [
        (
            local_time(each.started_at),
            each.model_id,
            each.runs_on,
            _state(each),
            _accuracy(each.result),
            _alone(each.result),
            each.message or "",
            each.benchmark_id,
        )
        for each in benchmarks
    ]
    table(["started", "model", "node", "state", "accuracy>", "decode tokens/s>", "problem", "id"], rows)


def _state(benchmark: BenchmarkInfo) -> str:
    if benchmark.state != "open":
        return benchmark.state
    waits = ", waits for others" if benchmark.waits else ""
    return f"{benchmark.done} of {benchmark.total}{waits}"


def _accuracy(result: BenchmarkResult | None) -> str:
    return "" if result is None or result.quality is None else percent(result.quality.accuracy)


def _alone(result: BenchmarkResult | None) -> str:
    """How fast the tokens came with the fewest streams."""
    if result is None or not result.speed:
        return ""
    return interval(min(result.speed, key=lambda each: each.streams).tokens_per_second)


@click.command()
@click.argument("benchmark")
@fleet_command
def cancel_benchmark(target: Target, benchmark: str) -> None:
    """End the benchmark with the id BENCHMARK. What was measured is not evaluated.

    \b
    Examples:
      suite cancel-benchmark w48
    """
    from suite.cli.output import json_line

    reply = target.run(lambda client: client.cancel_benchmark(benchmark))
    if target.as_json:
        json_line(reply)
    else:
        click.echo(reply.message)
