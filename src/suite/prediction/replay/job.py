"""A whole replay in a process of its own: ``python -m suite.prediction.replay.job``.

A node hands it a history and what is to be compared, and goes on serving. The process yields to all others on
the machine, and ends with whoever started it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from suite.bus import parent
from suite.errors import InvalidRequest, SuiteError
from suite.prediction.replay.contest import Contest
from suite.prediction.replay.history import History
from suite.prediction.replay.outcome import Outcome
from suite.prediction.replay.recommendation import Recommendation

NICE: Final = 19
_LENGTH_BYTES: Final = 4
_SHARE_OF_OUTCOMES: Final = 0.85
"""How much of the work is comparing; the rest is trying times to live for what served best."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be replayed."""

    history: History
    policies: tuple[str, ...]
    budgets: tuple[int, ...]
    """In bytes."""
    with_bets: bool


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    outcomes: tuple[Outcome, ...]
    recommendation: Recommendation


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It cannot be replayed: the message says why."""

    message: str


class _Done(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    compared: Compared


class _Progress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    fraction: float


_Told: TypeAlias = _Progress | _Done | Refused


async def run_apart(job: Job, tell: Callable[[float], Awaitable[None]]) -> Compared:
    """Replay it in a process, which is killed if this is cancelled. `tell` gets how far it is, 0 to 1.

    Raises InvalidRequest for what cannot be replayed, SuiteError if the process ends without an answer.
    """
    command = parent.command(sys.executable, "-m", __name__)
    async with await anyio.open_process(command, stderr=None, start_new_session=True) as process:
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        told = BufferedByteReceiveStream(process.stdout)
        try:
            await process.stdin.send(msgspec.msgpack.encode(job))
            await process.stdin.aclose()
            while isinstance(answer := await _next(told), _Progress):
                await tell(answer.fraction)
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead):
            await process.wait()
            raise SuiteError(
                f"the process that replays has ended with {process.returncode}: see the log"
            ) from None
    if isinstance(answer, Refused):
        raise InvalidRequest(answer.message)
    return answer.compared


async def _next(told: BufferedByteReceiveStream) -> _Told:
    """What the process tells next: its length, and then it."""
    length = int.from_bytes(await told.receive_exactly(_LENGTH_BYTES), "big")
    answer: _Told = msgspec.msgpack.decode(await told.receive_exactly(length), type=_Told)
    return answer


def compared(job: Job, progress: Callable[[float], None] = lambda _: None) -> Compared:
    """Replay it here; `progress` gets how far it is, 0 to 1. Raises InvalidRequest."""
    contest = Contest(job.policies, job.budgets, with_bets=job.with_bets)
    outcomes = contest.outcomes(
        job.history, progress=lambda done: progress(_SHARE_OF_OUTCOMES * done), apart=False
    )
    advice = contest.recommendation(
        job.history,
        outcomes,
        progress=lambda done: progress(_SHARE_OF_OUTCOMES + (1 - _SHARE_OF_OUTCOMES) * done),
        apart=False,
    )
    return Compared(outcomes=tuple(outcomes), recommendation=advice)


def main() -> None:
    """What the process does."""
    os.nice(NICE)
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    try:
        answer: _Told = _Done(compared=compared(job, lambda done: _tell(_Progress(fraction=done))))
    except InvalidRequest as error:
        answer = Refused(message=error.message)
    _tell(answer)


def _tell(told: _Told) -> None:
    data = msgspec.msgpack.encode(told)
    sys.stdout.buffer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
