"""What a fleet of 20 agents and 12 models does in 30 days, made up: the same events for the same seed.

Of a mixed log 55 % are samples of metrics (20 agents, 5 metrics each), 30 % generations, 8 % uses that
clients record, 5 % evaluations, and the rest the lives of instances and what went wrong with them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from suite.identity import new_id
from suite.messages.events import (
    ErrorReported,
    EvaluationLogged,
    Event,
    Generated,
    InstanceCrashed,
    InstanceLoaded,
    InstanceLoadStarted,
    InstanceUnloaded,
    MetricLogged,
    ModelRegistered,
    NodeStarted,
    UsageRecorded,
)

SPAN: Final = timedelta(days=30)
END: Final = datetime.now(UTC).replace(microsecond=0)
"""The last 30 days end now: nothing of them has expired."""

AGENTS: Final = tuple(f"agent-{number:02}" for number in range(20))
METRICS: Final = {
    "response_time_ms": (250.0, 0.8),
    "first_token_ms": (40.0, 0.6),
    "tokens_per_second": (30.0, 0.3),
    "accuracy": (0.8, 0.1),
    "memory_mb": (900.0, 0.2),
}
"""The median of each and how far it spreads, as of a logarithmic normal distribution."""
MODELS: Final = tuple(f"model-{number:02}.Q4_K_M" for number in range(12))
NODES: Final = ("box1", "box2")
CYCLE: Final = timedelta(hours=6)
GIB: Final = 2**30


class Workload:
    """Events that are spread evenly over the 30 days."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        self.count = count
        self._random = random.Random(seed)
        self._lives = self._facts()

    def time(self, number: int) -> datetime:
        """When the event of this number happens, from 0 on."""
        return END - SPAN + SPAN * number / self.count

    def metric(self, number: int) -> MetricLogged:
        """A sample, taken at the time of this number."""
        name = self._random.choice(tuple(METRICS))
        median, spread = METRICS[name]
        return MetricLogged(
            metric_id=new_id(),
            agent_name=self._random.choice(AGENTS),
            metric_name=name,
            value=median * math.exp(self._random.gauss(0, spread)),
            timestamp=self.time(number),
        )

    def mixed(self) -> Iterator[Event]:
        """All events, in the order of their times."""
        for number in range(self.count):
            place = self._random.random()
            if place < 0.55:
                yield self.metric(number)
            elif place < 0.85:
                yield self._generated()
            elif place < 0.93:
                yield UsageRecorded(model_id=self._random.choice(MODELS), usage_type="chat")
            elif place < 0.98:
                yield self._evaluation(number)
            else:
                yield next(self._lives)

    def _generated(self) -> Generated:
        tokens = self._random.randint(1, 512)
        return Generated(
            model_id=self._random.choice(MODELS),
            node=self._random.choice(NODES),
            instance_id=new_id(),
            generation_id=new_id(),
            conversation_id=new_id() if tokens % 2 else None,
            prompt_tokens=self._random.randint(10, 2000),
            reused_tokens=0,
            completion_tokens=tokens,
            queue_ms=0.25,
            time_to_first_token_ms=18.5,
            generation_ms=tokens * 8.125,
            outcome="stop",
        )

    def _evaluation(self, number: int) -> EvaluationLogged:
        time = self.time(number)
        return EvaluationLogged(
            evaluation_id=new_id(),
            model_name=self._random.choice(MODELS),
            cycle_id=f"cycle-{(time - END + SPAN) // CYCLE:03}",
            trust_score=self._random.random(),
            accuracy=self._random.random(),
            f1_score=self._random.random(),
            avg_latency_ms=100 * self._random.random(),
            evaluation_timestamp=time,
        )

    def _facts(self) -> Iterator[Event]:
        """Nodes with their files, and then one life of an instance after the other."""
        for node in NODES:
            yield NodeStarted(node=node, version="1.0.0", host=node, pid=1, memory_limit_bytes=64 * GIB)
            for model_id in MODELS:
                yield ModelRegistered(
                    model_id=model_id,
                    node=node,
                    file_name=f"{model_id}.gguf",
                    file_bytes=4 * GIB,
                    sha256="0" * 64,
                    architecture="llama",
                    parameters=7 * 10**9,
                    quantization="Q4_K_M",
                    trained_context_tokens=8192,
                )
        while True:
            yield from self._life()

    def _life(self) -> Iterator[Event]:
        node, model_id, id = self._random.choice(NODES), self._random.choice(MODELS), new_id()
        yield InstanceLoadStarted(
            node=node, model_id=model_id, instance_id=id, reserved_bytes=5 * GIB, context_tokens=8192
        )
        yield InstanceLoaded(
            node=node, model_id=model_id, instance_id=id, pid=1, resident_bytes=4 * GIB, load_ms=850.5
        )
        if self._random.random() < 0.95:
            yield InstanceUnloaded(
                node=node, model_id=model_id, instance_id=id, reason="idle", freed_bytes=4 * GIB
            )
        else:
            yield InstanceCrashed(node=node, model_id=model_id, instance_id=id, exit_code=-9, generations=1)
            yield ErrorReported(
                node=node, error_type="ActorStartFailed", message="it did not start", severity="error"
            )
