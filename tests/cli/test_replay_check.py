"""`suite replay --check`: whether the decisions of a log come out again as they stand in it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from suite.bus.connection import Connection
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.decisions import Candidate, Decision, PolicyState
from suite.messages.events import InstanceLoadStarted, UsageRecorded
from suite.messages.subjects import Subjects
from support.command import Done, run_command
from support.faults import KillableServer


@asynccontextmanager
async def logged(directory: Path) -> AsyncIterator[tuple[str, Log]]:
    """The address of a server, and a log with the uses of two models: `a`, then `b`."""
    async with (
        KillableServer.start(directory) as server,
        Connection.open(server.access, name="writer") as connection,
        Log.open(connection, Subjects(), source="/node/box", new_id=new_id, now=utc_now) as log,
    ):
        assert server.access.url is not None
        for model_id in ("a", "b"):
            await log.append(UsageRecorded(model_id=model_id, usage_type="test"))
        yield server.access.url, log


def load(evicting: str, *, worth: float = 1.0, first_seq: int = 1, node: str = "box") -> InstanceLoadStarted:
    """A load for which the least recently used of `a` and `b` has to leave, and which of them did."""
    candidates = [
        Candidate(model_id=id, bytes=60, standing="idle", worth=told, chosen=id == evicting)
        for id, told in (("a", worth), ("b", 2.0))
    ]
    return InstanceLoadStarted(
        node=node,
        model_id="c",
        instance_id="c1",
        reserved_bytes=50,
        context_tokens=0,
        evicting=(evicting,),
        decision=Decision(
            need_bytes=50,
            free_bytes=0,
            limit_bytes=120,
            policy="lru",
            policy_state=PolicyState(first_seq=first_seq, last_seq=2, limit_bytes=120, at=utc_now()),
            candidates=tuple(candidates),
        ),
    )


async def checked(url: str, *arguments: str) -> Done:
    command = partial(run_command, "replay", "--check", "--nats-url", url, *arguments)
    with anyio.fail_after(40):
        return await anyio.to_thread.run_sync(command)


async def test_it_says_that_all_came_out_again_or_which_is_the_first_that_did_not(tmp_path: Path) -> None:
    async with logged(tmp_path) as (url, log):
        empty = await checked(url)
        assert (empty.returncode, empty.stderr) == (0, "")
        assert empty.stdout == "the log has no loads: there is nothing to check\n"

        await log.append(load("a"))
        await log.append(load("b", first_seq=7))  # what it was made from is not in the log any more
        good = await checked(url)
        assert good == (
            0,
            "box: made 1 decision again, and each came out as it stands in the log\n"
            "  left out: 1 load, of which the log does not have all that they were decided from\n",
            "",
        )

        await log.append(load("a", worth=0.5))
        await log.append(load("a", node="other"))
        wrong = await checked(url)
        assert (wrong.returncode, wrong.stderr) == (1, "")
        first, what, why, left_out, other = wrong.stdout.splitlines()
        assert first == "box: made 2 decisions again, and the last came out differently"
        assert what.startswith("  event 5, ")
        assert what.endswith(
            "for c, the same models leave, but the memory of a was worth 0.5 and is worth 1.0 now"
        )
        assert why.startswith("  either this version decides otherwise")
        assert left_out.startswith("  left out: 1 load")
        assert other == "other: made 1 decision again, and each came out as it stands in the log"
        assert (await checked(url, "--node", "other")).returncode == 0

        await log.append(load("b", node="third"))
        third = await checked(url, "--node", "third")
        assert third.returncode == 1
        assert "for c, b left; now a would leave" in third.stdout
        report = json.loads((await checked(url, "--node", "third", "--json")).stdout)
        assert [(each["node"], each["decisions"], each["left_out"]) for each in report["nodes"]] == [
            ("third", 1, 0)
        ]
        difference = report["nodes"][0]["difference"]
        assert (difference["seq"], difference["recorded"], difference["evicting"]) == (7, ["b"], ["a"])

        unknown = await checked(url, "--node", "nosuch")
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert "no loads of the node nosuch; it has those of: box, other, third" in unknown.stderr


def test_a_file_has_no_decisions(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("timestamp_s,model_id\n0,a\n")
    done = run_command("replay", str(path), "--check")
    assert done.returncode == 2
    assert "--check is about the decisions in the log: leave HISTORY out" in done.stderr
