"""A node knows which requests of other nodes it has, until each has had its end."""

from __future__ import annotations

import anyio
import anyio.abc
import anyio.lowlevel

from suite.messages.presence import Forwarded
from suite.node.fleet.arrivals import Arrivals


def handed_over(generation_id: str) -> Forwarded:
    return Forwarded(state="handed_over", instance_id="i1", generation_id=generation_id)


def test_a_request_is_known_until_its_generation_ends() -> None:
    arrivals = Arrivals()
    for token in ("t1", "t2", ""):
        arrivals.take(token)
    arrivals.hand_over("t1", handed_over("g1"))
    assert arrivals.known(["t1", "t2", "", "t3"]) == {"t1": handed_over("g1"), "t2": None}
    arrivals.hand_over("t1", handed_over("g2"))
    assert arrivals.end_generation("g1") is None, "another process has begun it anew"
    assert arrivals.end_generation("g2") == "t1"
    assert arrivals.end_generation("g2") is None
    arrivals.end("t2")
    assert arrivals.known(["t1", "t2"]) == {}


def test_nothing_stays_of_a_generation_whose_request_was_given_back() -> None:
    arrivals = Arrivals()
    arrivals.take("t1")
    arrivals.hand_over("t1", handed_over("g1"))
    arrivals.end("t1")
    assert arrivals.end_generation("g1") is None


async def test_what_nobody_answers_yet_can_be_withdrawn() -> None:
    arrivals = Arrivals()
    for token in ("runs", "answered", "waits"):
        arrivals.take(token)
    ended: list[str] = []
    may_end = anyio.Event()

    async def work(
        token: str, is_answered: bool, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        with arrivals.withdrawable(token) as scope:
            if is_answered:
                arrivals.close(token)
            task_status.started()
            await may_end.wait()
        ended.append(f"{token} {scope.cancelled_caught}")

    async with anyio.create_task_group() as tasks:
        await tasks.start(work, "runs", False)
        await tasks.start(work, "answered", True)
        arrivals.withdraw()
        for _ in range(3):  # until those that were cancelled know it
            await anyio.lowlevel.checkpoint()
        may_end.set()
    assert sorted(ended) == ["answered False", "runs True"]
    assert arrivals.is_withdrawn("waits"), "when its turn comes, it is given back"
