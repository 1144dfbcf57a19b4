"""What a node does with requests that another is to serve, and does not.

The node is real. The other one, which has a model loaded, is played by the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import msgspec

from suite.bus.connection import Connection, Message
from suite.config import NatsSettings, Settings
from suite.errors import LoadFailed
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.presence import PROTOCOL, CataloguePage, HostedModel, NodeState, OfferedModel
from suite.messages.subjects import Subjects
from suite.node.fleet.forwarding import MODEL, REPLY, given_back, hand_back
from suite.node.node import Node
from suite.node.startup import running_node
from support.models import tiny_model
from support.nats import eventually, running_nats

SUBJECTS = Subjects()


class OtherNode:
    """`box2`, which has `tiny` and `theirs` loaded, and gives back what it gets, or answers it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.came: list[Message] = []
        self.is_able = False
        """Whether it answers."""

    async def listen(self) -> None:
        await self._connection.subscribe(SUBJECTS.node("box2", "action.>"), self._take)
        await self._connection.subscribe(SUBJECTS.node("box2", "presence"), self._offer)

    async def tell(self) -> None:
        """Tell again and again that it is there."""
        loaded = HostedModel(instance_id="i1", is_ready=True)
        for number in count(1):
            state = NodeState(
                node="box2",
                epoch=1,
                number=number,
                protocol=PROTOCOL,
                models={"tiny": loaded, "theirs": loaded},
                catalogue="c1",
            )
            await self._connection.publish(SUBJECTS.node("box2", "state"), msgspec.json.encode(state))
            await anyio.sleep(0.3)

    async def _offer(self, message: Message) -> None:
        models = {"theirs": OfferedModel(aliases=("nick",)), "tiny": OfferedModel()}
        page = CataloguePage(catalogue="c1", models=models, is_last=True)
        await self._connection.publish(message.reply, msgspec.json.encode(page))

    async def _take(self, message: Message) -> None:
        self.came.append(message)
        if self.is_able:
            await self._connection.publish(message.headers[REPLY], b'{"status": "success"}')
        else:
            error = given_back(LoadFailed("it is broken"), "box2")
            await hand_back(self._connection, message.reply, error)


class Rig:
    def __init__(self, node: Node, other: OtherNode, connection: Connection) -> None:
        self.node = node
        self.other = other
        self._connection = connection

    @property
    def room(self) -> int:
        """How many bytes a message may have."""
        return self._connection.max_payload

    async def ask(self, model_id: str, *, prompt: str = "Once", node: str | None = None) -> dict[str, Any]:
        request = GenerateTextRequest(model_id=model_id, prompt=prompt, max_tokens=2, node=node)
        answer = await self._connection.request(
            SUBJECTS.action("generate_text"), msgspec.json.encode(request), timeout=20
        )
        reply: dict[str, Any] = msgspec.json.decode(answer.data)
        return reply


@asynccontextmanager
async def rig(directory: Path) -> AsyncIterator[Rig]:
    (directory / "models").mkdir()
    tiny_model(directory / "models" / "tiny.gguf")
    async with running_nats(directory) as (server, connection):
        own = server.access
        nats = NatsSettings(url=own.url, user=own.user, password=own.password, inbox_prefix=own.inbox_prefix)
        settings = Settings(
            node="box1",
            data_dir=directory / "data",
            models_directories=(directory / "models",),
            standby=False,
            nats=nats,
        )
        other = OtherNode(connection)
        await other.listen()
        async with running_node(settings) as node, anyio.create_task_group() as tasks:
            tasks.start_soon(other.tell)
            await eventually(lambda: node.fleet.presence.is_acquainted and node.fleet.others)
            yield Rig(node, other, connection)
            tasks.cancel_scope.cancel()


async def test_what_another_node_does_not_serve_is_served_here_or_ends_with_its_reason(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as made:
        reply = await made.ask("theirs")
        assert (reply["code"], reply["message"], reply["node"]) == ("load_failed", "it is broken", "box2")
        reply = await made.ask("tiny", node="box2")
        assert reply["code"] == "load_failed", "it may be served nowhere else"
        assert len(made.other.came) == 2

        # What has no room for the headers of a forward is served here, if it can be.
        overhead = len(msgspec.json.encode(GenerateTextRequest(model_id="theirs", prompt="", max_tokens=2)))
        large = "x" * (made.room - overhead - 50)
        theirs, own = await made.ask("theirs", prompt=large), await made.ask("tiny", prompt=large)
        assert theirs["code"] == "too_large" and "to send it on to node box2" in theirs["message"]
        assert made.node.supervisor.instances, f"here it is only what a model's process refuses: {own}"
        assert len(made.other.came) == 2

        made.node.supervisor.retire("tiny", "requested", drain_seconds=5.0)
        await eventually(lambda: not made.node.supervisor.instances)
        assert (await made.ask("tiny"))["usage"]["completion_tokens"] == 2
        assert len(made.other.came) == 3, "it went to where it is loaded first"

        made.other.is_able = True
        assert (await made.ask("nick"))["status"] == "success"
        assert made.other.came[-1].headers[MODEL] == "theirs", "others need not know the alias"

        made.node.supervisor.admission.close()
        assert (await made.ask("tiny"))["status"] == "success", "this node stops"
