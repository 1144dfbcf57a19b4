"""The client's methods for benchmarks of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Unpack

from suite.client.asking import Asking, told
from suite.client.windows import Page
from suite.domain.question_set import require_size
from suite.messages.actions.benchmark import (
    CancelBenchmarkReply,
    CancelBenchmarkRequest,
    FollowBenchmarkReply,
    FollowBenchmarkRequest,
    GetBenchmarksReply,
    GetBenchmarksRequest,
    RunBenchmarkReply,
    RunBenchmarkRequest,
)
from suite.messages.benchmarks import BenchmarkState
from suite.messages.signals import Benchmarking


class Benchmarks(Asking):
    """The actions for benchmarks: jobs whose results are evaluations."""

    async def run_benchmark(
        self,
        model_id: str,
        *,
        set_jsonl: str | None = None,
        judge: str | None = None,
        streams: Sequence[int] = (1, 4, 8),
        rounds: int = 5,
        prompt_tokens: int | None = None,
        answer_tokens: int | None = None,
        cycle_id: str | None = None,
        benchmark_id: str | None = None,
        wait: bool = True,
        on_progress: Callable[[Benchmarking], None] | None = None,
    ) -> RunBenchmarkReply:
        """Measure how fast a model is and, with a set of questions, how well it answers.

        Returns when it is finished, or with ``wait=False`` when the job is in the log. It goes on when this
        call is cancelled, and after a restart of its node: with the same ``benchmark_id`` it is waited for
        again. ``on_progress`` is called with how far it is. Raises NodeLost when the node that answers is
        lost, and the error that the benchmark failed with; Cancelled if somebody has cancelled it. Raises
        TooLarge before anything is sent if the set is larger than `SET_BYTES`.
        """
        if set_jsonl is not None:
            require_size(set_jsonl)
        request = RunBenchmarkRequest(
            model_id=model_id,
            benchmark_id=benchmark_id,
            cycle_id=cycle_id,
            streams=tuple(streams),
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            set_jsonl=set_jsonl,
            judge=judge,
            wait=wait,
            stream=True,
        )
        return await self._exchange(
            "run_benchmark", request, RunBenchmarkReply, told(Benchmarking, on_progress)
        )

    async def follow_benchmark(
        self,
        benchmark_id: str,
        *,
        model_id: str | None = None,
        wait: bool = True,
        on_progress: Callable[[Benchmarking], None] | None = None,
    ) -> FollowBenchmarkReply:
        """Wait for a benchmark that somebody has started, whatever it measures; nothing is started by this.

        Raises BenchmarkNotFound, Conflict if it is not of the model that is named, and what `run_benchmark`
        raises.
        """
        request = FollowBenchmarkRequest(benchmark_id=benchmark_id, model_id=model_id, wait=wait, stream=True)
        return await self._exchange(
            "follow_benchmark", request, FollowBenchmarkReply, told(Benchmarking, on_progress)
        )

    async def get_benchmarks(
        self,
        model_id: str | None = None,
        *,
        state: BenchmarkState | None = None,
        **page: Unpack[Page],
    ) -> GetBenchmarksReply:
        """Get a page of benchmarks, the one started last in front, also those that wait or run."""
        request = GetBenchmarksRequest(model_id=model_id, state=state, **page)
        return await self._ask("get_benchmarks", request, GetBenchmarksReply)

    async def cancel_benchmark(self, benchmark_id: str) -> CancelBenchmarkReply:
        """End a benchmark that waits or runs. Raises BenchmarkNotFound."""
        request = CancelBenchmarkRequest(benchmark_id=benchmark_id)
        return await self._ask("cancel_benchmark", request, CancelBenchmarkReply)
