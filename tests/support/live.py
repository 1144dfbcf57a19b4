"""What a page is told in an hour, made here, so that it can be told in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from suite.gateway.access import Rights
from suite.gateway.dashboard.live import hello, piece
from suite.gateway.dashboard.told import Events, Fleet, InstanceRow, ModelRow, Models, NodeRow
from suite.gateway.encoding import encode
from suite.messages.actions.status import GenerationInfo, MemoryInfo

BEGIN = datetime(2026, 11, 29, 12, tzinfo=UTC)
NODE = "box1"
GB = 1_000_000_000


def stream(*, models: int, updates: int, events: int, after: int = 0, skipped: int = 0) -> str:
    """The stream of a page: so many models, then an update each second, each with so many events.

    ``after`` is the sequence of the last event of the stream before. ``skipped``: before the events of each
    update so many others came too fast to be told.
    """
    return b"".join(_pieces(models, updates, events, after, skipped)).decode()


def _pieces(models: int, updates: int, events: int, after: int, skipped: int) -> Iterator[bytes]:
    yield piece("hello", hello(Rights(endpoints=frozenset(("view",)))))
    yield piece("models", Models(rows=tuple(_row(number) for number in range(models)), are_all_known=True))
    seq = after
    for second in range(1, updates + 1):
        at = BEGIN + timedelta(seconds=second)
        yield piece("fleet", _fleet(at, second, models, seq))
        yield piece("models", Models(rows=(_row(second % 7, second),), are_all_known=True))
        if events:
            seq += skipped
            told = tuple(_event(seq + each, at) for each in range(1, events + 1))
            yield piece("events", Events(events=told, skipped=skipped))
            seq += events


def _row(number: int, second: int = 0) -> msgspec.Raw:
    instance = InstanceRow(
        node=NODE,
        instance_id=f"i{number}",
        reserved_bytes=GB,
        gpus={},
        measured_bytes=GB,
        load_progress=1.0,
        load_ms=900.0,
        running=second % 3,
        threads=number % 2,
        loaded_at=BEGIN.isoformat(),
    )
    row = ModelRow(
        id=f"model-{number:04}",
        status="loaded" if number < 7 else "unloaded",
        nodes=(NODE,),
        architecture="llama",
        parameters=1_200_000_000,
        quantization="Q4_K_M",
        need_bytes=GB,
        weights_bytes=GB // 2,
        kv_bytes=GB // 4,
        instances=(instance,) if number < 7 else (),
    )
    return msgspec.Raw(encode(row))


def _fleet(at: datetime, second: int, models: int, seq: int) -> Fleet:
    memory = MemoryInfo(
        node=NODE,
        name="ram",
        limit_bytes=16 * GB,
        reserved_bytes=7 * GB,
        measured_bytes=6 * GB,
        admissible_bytes=15 * GB,
    )
    node = NodeRow(
        node=NODE,
        status="HEALTHY",
        version="1",
        uptime_seconds=float(second),
        is_draining=False,
        cores=8,
        models=models,
        running=1,
        completion_tokens=40 * second,
        memories=(memory,),
    )
    generation = GenerationInfo(
        generation_id=f"g{second // 5}",
        model_id="model-0001",
        state="generating",
        elapsed_ms=1000.0 * (second % 5),
        completion_tokens=40 * (second % 5),
        conversation_id=None,
        client="test",
        node=NODE,
    )
    return Fleet(
        at=at,
        nodes=(node,),
        missing=(),
        problems=(),
        breakers=(),
        generations=(generation,),
        models=models,
        last_seq=seq,
    )


def _event(seq: int, at: datetime) -> dict[str, object]:
    return {
        "seq": seq,
        "subject": f"suite.event.usage.model-{seq % 100:04}.generated",
        "id": f"id-{seq}",
        "type": "suite.usage.generated.v1",
        "source": f"/node/{NODE}",
        "time": at,
        "data": {
            "model_id": f"model-{seq % 100:04}",
            "node": NODE,
            "prompt_tokens": 100,
            "completion_tokens": 40,
        },
    }
