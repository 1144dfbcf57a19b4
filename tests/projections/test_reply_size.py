"""Whatever is asked for, a reply fits into one message; what is left out is said, or on the next page."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import cast

import aiosqlite
import msgspec

from suite.actions.evaluation import compare_models
from suite.bus.service import Call
from suite.messages.actions.evaluation import CompareModelsReply, CompareModelsRequest, SummaryRequest
from suite.messages.actions.projections import GetErrorsRequest
from suite.messages.actions.usage import UsageRequest
from suite.messages.events import ErrorReported, EvaluationLogged, MetricLogged, UsageRecorded
from suite.node.node import Node
from suite.projections.errors import ErrorsProjection, errors
from suite.projections.evaluation import EvaluationProjection
from suite.projections.reply_size import as_many_as_fit, left_out
from suite.projections.summary import summary
from suite.projections.usage import UsageProjection, usage
from support.folding import T0, fold, log_of, read_model

MESSAGE_BYTES = 1 << 20


def size(reply: msgspec.Struct) -> int:
    return len(msgspec.json.encode(reply))


def long(number: int) -> str:
    """As long a name as there may be, that grows sixfold in JSON."""
    return f"{number:04}" + "\x01" * 251


def test_one_entry_is_there_however_large_it_is() -> None:
    large = ErrorReported(node="n", error_type="t", message="x" * MESSAGE_BYTES, severity="info")
    assert as_many_as_fit([large, large]) == (large,)
    assert as_many_as_fit(list[ErrorReported]()) == ()
    assert left_out((1, 2), (1, 2), "numbers") == ()
    assert left_out((1, 2, 3), (1,), "numbers")[0].startswith("2 numbers are left out")


async def test_errors_come_in_pages_that_fit() -> None:
    events = [
        ErrorReported(node="box1", error_type="t", message="\x01" * 2000, severity="error")
        for _ in range(200)
    ]
    async with read_model(ErrorsProjection()) as db:
        await fold(db, ErrorsProjection(), log_of(events))
        seqs: list[int] = []
        cursor = None
        while True:
            reply = await errors(db, GetErrorsRequest(limit=1000, cursor=cursor))
            assert size(reply) < MESSAGE_BYTES
            seqs += [entry.seq for entry in reply.errors]
            if (cursor := reply.next_cursor) is None:
                break
        assert seqs == list(range(200, 0, -1))


async def test_the_most_used_groups_are_kept() -> None:
    events = [
        UsageRecorded(model_id=long(number), usage_type=long(0), conversation_id=long(1))
        for number in range(400)
    ]
    events += [UsageRecorded(model_id="most", usage_type=long(0), conversation_id=long(1))] * 2
    async with read_model(UsageProjection()) as db:
        await fold(db, UsageProjection(), log_of(events))
        request = UsageRequest(group_by=("model", "conversation", "usage_type"), limit=1000)
        reply = await usage(db, request)
        assert size(reply) < MESSAGE_BYTES
        assert reply.usage[0].model_id == "most"
        (warning,) = reply.warnings
        assert warning.startswith(f"{401 - len(reply.usage)} groups")
        assert not (await usage(db, UsageRequest(limit=10))).warnings


async def test_the_figures_of_as_many_agents_as_fit() -> None:
    events = [
        MetricLogged(metric_id=f"m{number}", agent_name=long(number), metric_name="m", value=1, timestamp=T0)
        for number in range(800)
    ]
    async with read_model(EvaluationProjection()) as db:
        await fold(db, EvaluationProjection(), log_of(events))
        reply = await summary(db, SummaryRequest(metric_name="m"))
        assert size(reply) < MESSAGE_BYTES
        assert reply.total is not None and reply.total.count == 800
        assert reply.by_agent[0].agent_name == long(0)
        (warning,) = reply.warnings
        assert warning.startswith(f"{800 - len(reply.by_agent)} agents")


class Reading:
    """A read model that is there."""

    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db

    def reading(self, min_seq: int, *, own_seq: int) -> Reading:
        assert min_seq == own_seq == 0
        return self

    async def __aenter__(self) -> aiosqlite.Connection:
        return self._db

    async def __aexit__(self, *_: object) -> None:
        pass


async def test_the_most_trusted_models_are_kept() -> None:
    events = [
        EvaluationLogged(
            evaluation_id=f"e{number}",
            model_name="best" if number == 700 else long(number),
            cycle_id="c",
            trust_score=1.0 if number == 700 else 0.1,
            evaluation_timestamp=T0 + timedelta(seconds=number),
        )
        for number in range(701)
    ]
    async with read_model(EvaluationProjection()) as db:
        await fold(db, EvaluationProjection(), log_of(events))
        node = SimpleNamespace(
            fleet=SimpleNamespace(meant=str),
            projections=SimpleNamespace(evaluation=Reading(db)),
            last_seq=0,
        )
        reply = await compare_models(cast(Node, node), CompareModelsRequest(), cast(Call, None))
        assert isinstance(reply, CompareModelsReply)
        assert size(reply) < MESSAGE_BYTES
        assert reply.models[0].model_name == "best"
        (warning,) = reply.warnings
        assert warning.startswith(f"{701 - len(reply.models)} less trusted models")
