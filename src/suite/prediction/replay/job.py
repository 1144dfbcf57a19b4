"""A whole replay in a process of its own: ``python -m suite.prediction.replay.job``.

A node hands it a history and what is to be compared, and goes on serving. The process yields to all others on
the machine, and ends with whoever started it.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import anyio
import msgspec

from suite.bus import parent
from suite.errors import InvalidRequest, SuiteError
from suite.prediction.replay.contest import Contest
from suite.prediction.replay.history import History
from suite.prediction.replay.outcome import Outcome
from suite.prediction.replay.recommendation import Recommendation

NICE: Final = 19


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


async def run_apart(job: Job) -> Compared:
    """Replay it in a process, which is killed if this is cancelled.

    Raises InvalidRequest for what cannot be replayed, SuiteError if the process ends without an answer.
    """
    process = await anyio.run_process(
        parent.command(sys.executable, "-m", __name__),
        input=msgspec.msgpack.encode(job),
        stderr=None,
        check=False,
        start_new_session=True,
    )
    try:
        answer = msgspec.msgpack.decode(process.stdout, type=_Done | Refused)
    except msgspec.MsgspecError:
        raise SuiteError(
            f"the process that replays has ended with {process.returncode}: see the log"
        ) from None
    if isinstance(answer, Refused):
        raise InvalidRequest(answer.message)
    return answer.compared


def compared(job: Job) -> Compared:
    """Replay it here. Raises InvalidRequest."""
    contest = Contest(job.policies, job.budgets, with_bets=job.with_bets)
    outcomes = contest.outcomes(job.history, apart=False)
    advice = contest.recommendation(job.history, outcomes, apart=False)
    return Compared(outcomes=tuple(outcomes), recommendation=advice)


def main() -> None:
    """What the process does."""
    os.nice(NICE)
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    answer: _Done | Refused
    try:
        answer = _Done(compared=compared(job))
    except InvalidRequest as error:
        answer = Refused(message=error.message)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    main()
