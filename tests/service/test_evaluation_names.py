"""Evaluations are found under whatever a model or an evaluation is called, and wherever they were logged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiosqlite
import anyio
import pytest

from suite.actions.evaluation import retract_model_evaluation
from suite.bus.connection import Connection
from suite.bus.service import Call
from suite.client import Client
from suite.errors import EvaluationNotFound
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.actions.evaluation import RetractModelEvaluationReply, RetractModelEvaluationRequest
from suite.messages.envelope import Recorded
from suite.messages.events import EvaluationLogged
from suite.messages.subjects import Subjects
from suite.node.node import Node
from suite.projections.evaluation import EvaluationProjection
from support.models import tiny_model
from support.nats import running_nats
from support.nodes import client_of_node
from support.projections import projecting

SCORES: dict[str, Any] = {"accuracy": 0.8, "f1_score": 0.7}


@asynccontextmanager
async def service(directory: Path, config: str = "") -> AsyncIterator[Client]:
    models, toml = directory / "models", directory / "suite.toml"
    models.mkdir()
    tiny_model(models / "tiny.gguf")
    tiny_model(models / "other.gguf", seed=1)
    toml.write_text(config)
    async with client_of_node(models, directory / "suite", config=toml) as client:
        yield client


async def test_no_id_stands_in_the_way_of_a_retraction(tmp_path: Path) -> None:
    longest = "\x01" * 60 + "x" * 54  # its event's id has as many characters as one may have
    names = ["run1", "run1:retracted", "retracted:run1", "1", "evaluation.retracted:run1", longest]
    async with service(tmp_path) as client:
        for name in names:
            await client.log_model_evaluation("tiny", "c", 0.1, evaluation_id=name, **SCORES)
        for count, name in enumerate(names, start=1):
            retracted = await client.retract_model_evaluation(name)
            reply = await client.get_model_evaluation_scores(min_seq=retracted.seq)
            left = {each.evaluation_id for each in reply.evaluations}
            assert left == set(names[count:])


async def test_an_alias_is_the_model_itself(tmp_path: Path) -> None:
    async with service(tmp_path, '[models.tiny]\naliases = ["nick"]\n') as client:
        given: dict[str, Any] = {"evaluation_id": "e", "evaluation_timestamp": "2026-01-01", **SCORES}
        logged = await client.log_model_evaluation("nick", "c", 0.9, **given)
        assert (await client.log_model_evaluation("tiny", "c", 0.9, **given)).seq == logged.seq
        for name in ("nick", "tiny"):
            (row,) = (await client.get_model_evaluation_scores(model_name=name)).evaluations
            assert (row.evaluation_id, row.model_name) == ("e", "tiny")
            (model,) = (await client.compare_models([name])).models
            assert (model.model_name, model.evaluations) == ("tiny", 1)
        chosen = await client.select_model()
        assert (chosen.model_id, chosen.trust) == ("tiny", model.scores.trust)
        assert (await client.retract_model_evaluation("e")).model_name == "tiny"


def evaluation(evaluation_id: str) -> EvaluationLogged:
    return EvaluationLogged(
        evaluation_id=evaluation_id,
        model_name="tiny",
        cycle_id="c",
        trust_score=0.5,
        evaluation_timestamp=datetime(2026, 1, 1, tzinfo=UTC),
    )


class Slow(EvaluationProjection):
    """It folds nothing until it may."""

    def __init__(self) -> None:
        self.may = anyio.Event()
        self.may.set()

    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        if events:
            await self.may.wait()
        await super().fold(db, events)


@asynccontextmanager
async def opened(connection: Connection, node: str) -> AsyncIterator[Log]:
    async with Log.open(connection, Subjects(), source=f"/node/{node}", new_id=new_id, now=utc_now) as log:
        yield log


async def test_what_another_node_has_just_logged_can_be_retracted(tmp_path: Path) -> None:
    slow = Slow()
    async with (
        running_nats(tmp_path) as (_, connection),
        opened(connection, "here") as here,
        opened(connection, "there") as there,
        projecting(here, tmp_path / "e.db", slow) as evaluations,
    ):
        node = cast(
            Node,
            SimpleNamespace(log=here, last_seq=0, projections=SimpleNamespace(evaluation=evaluations)),
        )
        call = cast(Call, SimpleNamespace(request_id="r"))

        async def retract(evaluation_id: str) -> RetractModelEvaluationReply:
            request = RetractModelEvaluationRequest(evaluation_id=evaluation_id)
            reply = await retract_model_evaluation(node, request, call)
            assert isinstance(reply, RetractModelEvaluationReply)
            return reply

        await evaluations.wait_for(await here.append(evaluation("own")))
        slow.may = anyio.Event()
        seq = await there.append(evaluation("e"))

        async def let_it_fold() -> None:
            await anyio.sleep(0.3)  # by now it would have been said not to be there
            slow.may.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(let_it_fold)
            retracted = await retract("e")
        assert (retracted.retracted, retracted.model_name) == (True, "tiny")
        assert retracted.seq > seq
        with pytest.raises(EvaluationNotFound):
            await retract("none")
