"""What a node does with the requests of another when it was cut off, and what it tells of them (ADR 59).

The node is real. The first node, which forwards, is played by the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.bus.connection import Connection, Message
from suite.config import NatsSettings, Settings
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.events import InstanceLoadFailed, InstanceLoadStarted
from suite.messages.presence import Forwarded, GetArrivals, KnownArrivals
from suite.messages.subjects import Subjects
from suite.node.fleet.forwarding import ARRIVALS, EPOCH, MODEL, REPLY, SEQ
from suite.node.fleet.presence import Presence
from suite.node.node import Node
from suite.node.startup import running_node
from support.models import tiny_model
from support.nats import eventually, running_nats

SUBJECTS = Subjects()


class FirstNode:
    """Forwards requests to `box1`, and hears what becomes of them."""

    def __init__(self, connection: Connection, epoch: int) -> None:
        self._connection = connection
        self._epoch = epoch
        self.token, self._reply = connection.new_inbox(), connection.new_inbox()
        self.told: list[str] = []
        self._answers = 0

    def heard(self) -> int:
        """How many answers the client would have got."""
        return self._answers

    async def listen(self) -> None:
        await self._connection.subscribe(self.token, self._hear)
        await self._connection.subscribe(self._reply, self._count)

    async def forward(
        self,
        generation_id: str,
        model_id: str = "tiny",
        *,
        action: str = "generate_text",
        epoch: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        request = GenerateTextRequest(
            model_id=model_id, prompt="Once", max_tokens=2, generation_id=generation_id
        )
        own = {REPLY: self._reply, SEQ: "0", EPOCH: str(epoch or self._epoch)}
        await self._connection.publish(
            SUBJECTS.node("box1", f"action.{action}"),
            msgspec.json.encode(request),
            headers=own | dict(headers or {}),
            reply=self.token,
        )

    async def _hear(self, message: Message) -> None:
        self.told.append(msgspec.json.decode(message.data, type=Forwarded).state)
        if message.reply:
            await self._connection.publish(message.reply, message.data)

    async def _count(self, _: Message) -> None:
        self._answers += 1


async def test_what_was_cut_off_is_given_back_and_what_was_handed_over_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    for name in ("tiny", "other"):
        tiny_model(tmp_path / "models" / f"{name}.gguf")
    async with running_nats(tmp_path) as (server, connection):
        own = server.access
        nats = NatsSettings(url=own.url, user=own.user, password=own.password, inbox_prefix=own.inbox_prefix)
        settings = Settings(
            node="box1",
            data_dir=tmp_path / "data",
            models_directories=(tmp_path / "models",),
            standby=False,
            nats=nats,
        )
        async with running_node(settings) as node:
            first = FirstNode(connection, node.journal.epoch)
            await first.listen()
            itself = node.fleet.own
            offered = itself.page("").models["tiny"].memory
            assert not itself.again(()).is_draining, "it serves"
            await first.forward("waits-for-its-load")
            await eventually(lambda: node.generations.pending)
            node.fleet.routing.withdraw()
            await eventually(lambda: first.told == ["misplaced"])
            await eventually(lambda: not node.generations.pending)
            assert first.heard() == 0, "the first node has it answered"

            await first.forward("of-another-life", epoch=1_000_000)
            await first.forward("runs")
            await eventually(lambda: first.told == ["misplaced", "handed_over", "ended"])
            await eventually(lambda: first.heard() == 1)

            assert node.supervisor.sizes.is_measured(node.catalogue.models["tiny"])
            itself.look()
            assert itself.page("").models["tiny"].memory == offered, "what was measured stands elsewhere"

            await first.forward("by-an-alias", "nick", headers={MODEL: "tiny"})
            await eventually(lambda: first.told[3:] == ["handed_over", "ended"])
            await first.forward("nobody-knows-it", action="nosuch")
            await eventually(lambda: first.told[5:] == ["ended"])
            await eventually(lambda: first.heard() == 3)
            question = GetArrivals(tokens=(first.token,))
            answer = await connection.request(
                SUBJECTS.node("box1", ARRIVALS), msgspec.json.encode(question), timeout=5
            )
            assert msgspec.json.decode(answer.data, type=KnownArrivals).requests == {}

            first.told.clear()
            node.supervisor.admission.close()
            await first.forward("comes-when-it-stops", "other")
            await eventually(lambda: first.told == ["misplaced"])

            monkeypatch.setattr(Presence, "is_cut_off", property(lambda _: True))
            await first.forward("is-read-late")
            await eventually(lambda: first.told[1:] == ["misplaced"])
            abandoned = GenerateTextRequest(model_id="tiny", prompt="Once", max_tokens=2, stream=True)
            await connection.publish(
                SUBJECTS.action("generate_text"),
                msgspec.json.encode(abandoned),
                reply=connection.new_inbox(),
            )
            before = node.commands_processed
            await eventually(lambda: node.commands_processed > before)
            await anyio.sleep(0.2)
            assert node.supervisor.lifecycle.counts["generations"] == 2, "nobody listens to the answer"
            assert first.heard() == 3

            assert itself.again(()).paused == ()
            for number in range(2):
                fails_to_load(node, "other", f"instance-{number}")
            assert itself.again(()).paused == ("other",), "the others shall not send it here"


def fails_to_load(node: Node, model_id: str, instance_id: str) -> None:
    """What the node notes when a model cannot be loaded."""
    key = node.catalogue.models[model_id].settings_key
    for fact in (
        InstanceLoadStarted(
            node=node.name,
            model_id=model_id,
            instance_id=instance_id,
            reserved_bytes=1,
            context_tokens=1,
            settings_key=key,
        ),
        InstanceLoadFailed(
            node=node.name,
            model_id=model_id,
            instance_id=instance_id,
            code="load_failed",
            message="it is odd",
        ),
    ):
        node.supervisor.quarantine.note(fact)
