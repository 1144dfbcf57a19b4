"""The benchmarks of a node, one after the other: two at once would measure each other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio

from suite.errors import Overloaded, SuiteError
from suite.node.benchmarks.job import Job
from suite.projections.benchmarks import open_benchmarks
from suite.projections.projector import Projector

logger = logging.getLogger("suite.benchmarks")

MOST_OPEN: Final = 64
"""So many benchmarks may wait on a node."""
RETRY_SECONDS: Final = 1.0


class Benchmarks:
    """The benchmarks that a node has to run."""

    def __init__(self, node: str, evaluation: Projector, *, job: Callable[[str], Job]) -> None:
        """`job` makes the job that runs a benchmark."""
        self._node = node
        self._evaluation = evaluation
        self._job = job
        self._open: dict[str, None] = {}
        """In the order in which they were started."""
        self._news = anyio.Event()
        self._scope = anyio.CancelScope()

    def require_room(self) -> None:
        """Check that one more may wait. Raises Overloaded."""
        if len(self._open) >= MOST_OPEN:
            raise Overloaded(f"{MOST_OPEN} benchmarks wait on {self._node}: cancel some, or try again later")

    def add(self, benchmark_id: str) -> None:
        """Run a benchmark whose start is in the log, when it is its turn. One that is known counts once."""
        self._open.setdefault(benchmark_id)
        self._news.set()

    async def run(self, epoch: int) -> None:
        """Run what the log has open, and what is added, until cancelled or stopped.

        `epoch`: the start of this node; what was open before it is run too.
        """
        with self._scope:
            await self._recall(epoch)
            while True:
                while self._open:
                    benchmark_id = next(iter(self._open))
                    await self._run(benchmark_id)
                    del self._open[benchmark_id]
                self._news = anyio.Event()
                await self._news.wait()

    def stop(self) -> None:
        """Run no more: the node stops, and need not wait for what it will measure again."""
        self._scope.cancel()

    async def _recall(self, epoch: int) -> None:
        """Find the benchmarks that an earlier process of this node had not finished."""
        while True:
            try:
                async with self._evaluation.reading(epoch) as db:
                    before = await open_benchmarks(db, self._node)
                break
            except SuiteError as error:
                logger.debug("which benchmarks are open is not known yet: %s", error.message)
                await anyio.sleep(RETRY_SECONDS)
        self._open = dict.fromkeys(before) | self._open

    async def _run(self, benchmark_id: str) -> None:
        """Run a benchmark to its end. If it is cut, as by a log that is away, it goes on a moment later."""
        while True:
            try:
                await self._job(benchmark_id).run()
                return
            except SuiteError as error:
                logger.warning("the benchmark %s waits: %s", benchmark_id, error.message)
                await anyio.sleep(RETRY_SECONDS)
            except Exception:  # whatever it was must not end the node
                logger.exception("the benchmark %s is left to the next start of this node", benchmark_id)
                return
