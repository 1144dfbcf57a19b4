"""A model's process without a node: the test does what a node does, on a real nats-server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec

from suite.bus.connection import Connection, Message, Subscription
from suite.bus.embedded import EmbeddedServer
from suite.engine.gguf.signature import Signature
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.actions.base import ErrorReply
from suite.messages.actions.generation import (
    CancelGenerationReply,
    CancelGenerationRequest,
    GenerateTextReply,
    GenerateTextRequest,
)
from suite.messages.actor import (
    REPLY_HEADER,
    ActorSpec,
    AnyReport,
    Failed,
    Finished,
    Handover,
    HandoverReply,
    NatsAccess,
    Ready,
)
from suite.messages.signals import AnySignal, Chunk
from suite.messages.subjects import Subjects
from suite.messages.tracing import TraceSettings
from suite.node.process import ActorProcess

NODE, INSTANCE, MODEL = "box1", "instance-1", "model-1"
SUBJECTS = Subjects()
SECONDS = 30.0


class Client:
    """One requester's inbox, and what has come to it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._news = anyio.Event()

    async def receive(self, message: Message) -> None:
        self.messages.append(message)
        self._news.set()
        self._news = anyio.Event()

    async def until(self, count: int) -> None:
        """Wait for that many messages."""
        with anyio.fail_after(SECONDS):
            while len(self.messages) < count:
                await self._news.wait()

    async def final(self) -> GenerateTextReply | ErrorReply:
        """Wait for the final message."""
        with anyio.fail_after(SECONDS):
            while True:
                for message in self.messages:
                    if b'"status":' in message.data:
                        if b'"status":"error"' in message.data:
                            return msgspec.json.decode(message.data, type=ErrorReply)
                        return msgspec.json.decode(message.data, type=GenerateTextReply)
                await self._news.wait()

    async def success(self) -> GenerateTextReply:
        final = await self.final()
        assert isinstance(final, GenerateTextReply), final
        return final

    async def error(self) -> ErrorReply:
        final = await self.final()
        assert isinstance(final, ErrorReply), final
        return final

    async def end(self) -> None:
        """Wait for the empty message that ends a stream."""
        with anyio.fail_after(SECONDS):
            while not self.messages or self.messages[-1].data:
                await self._news.wait()

    @property
    def signals(self) -> list[AnySignal]:
        return [
            msgspec.json.decode(message.data, type=AnySignal)
            for message in self.messages
            if b'"kind":' in message.data
        ]

    @property
    def chunks(self) -> list[Chunk]:
        return [signal for signal in self.signals if isinstance(signal, Chunk)]


class Actor:
    """A model's process, as its node sees it."""

    def __init__(self, process: ActorProcess, node: Connection, client: Connection) -> None:
        self.process = process
        self.reports: list[AnyReport] = []
        self.former_node = ""
        """Where the conversations of generations that are handed over were before."""
        self._node = node
        self._client = client
        self._news = anyio.Event()

    async def collect(self) -> None:
        async for report in self.process.reports():
            self.reports.append(report)
            self._news.set()
            self._news = anyio.Event()

    async def reported(self, *kinds: type[AnyReport]) -> None:
        """Wait for a report of one of these kinds."""
        with anyio.fail_after(SECONDS):
            while not any(isinstance(report, kinds) for report in self.reports):
                await self._news.wait()

    async def finished(self, generation_id: str) -> Finished:
        with anyio.fail_after(SECONDS):
            while True:
                for report in self.reports:
                    if isinstance(report, Finished) and report.generation_id == generation_id:
                        return report
                await self._news.wait()

    async def hand_over(
        self, request: GenerateTextRequest, generation_id: str, *, reply: str, traceparent: str | None = None
    ) -> HandoverReply:
        headers = {REPLY_HEADER: reply}
        if traceparent is not None:
            headers["traceparent"] = traceparent
        answer = await self._node.request(
            SUBJECTS.actor(NODE, INSTANCE, "generate"),
            msgspec.json.encode(
                Handover(
                    generation_id=generation_id,
                    request=request,
                    warnings=("w",),
                    former_node=self.former_node,
                )
            ),
            headers=headers,
            timeout=SECONDS,
        )
        return msgspec.json.decode(answer.data, type=HandoverReply)

    async def generate(self, generation_id: str, **fields: object) -> Client:
        """Hand over a generation that is accepted, with an inbox that gets what comes."""
        client, _ = await self.listening(generation_id, **fields)
        return client

    async def listening(self, generation_id: str, **fields: object) -> tuple[Client, Subscription]:
        client = Client()
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, client.receive)
        accepted = await self.hand_over(request(**fields), generation_id, reply=inbox)
        assert not accepted.code, accepted
        return client, subscription

    async def listen_again(self, client: Client, left: Subscription) -> Subscription:
        """Listen to the inbox that a client has left, as one does that was disconnected."""
        return await self._client.subscribe(left.subject, client.receive)

    async def cancel(self, generation_id: str) -> bool:
        answer = await self._node.request(
            SUBJECTS.actor(NODE, INSTANCE, "cancel"),
            msgspec.json.encode(CancelGenerationRequest(generation_id=generation_id)),
            timeout=SECONDS,
        )
        return msgspec.json.decode(answer.data, type=CancelGenerationReply).cancelled


def request(**fields: object) -> GenerateTextRequest:
    return msgspec.convert({"model_id": MODEL, "temperature": 0, **fields}, GenerateTextRequest)


def spec(path: Path, *, nats: NatsAccess, **settings: object) -> ActorSpec:
    defaults = {
        "node": NODE,
        "instance_id": INSTANCE,
        "model_id": MODEL,
        "model_path": str(path),
        "subject_root": SUBJECTS.root,
        "context_tokens": 512,
        "cache_tokens": settings.get("context_tokens", 512),
        "kv_cache": "unified",
        "prompt_step_tokens": 256,
        "max_step_ms": 150,
        "model_files": {"paths": [str(path)], "signature": Signature.of([path]).text},
        "model_digest": None,
        "snapshots": None,
        "batch_tokens": 128,
        "gpu_layers": 0,
        "threads": 1,
        "slots": 2,
        "queue_limit": 4,
        "usage_retention_seconds": 0,
        "tracing": TraceSettings(),
        "confinement": {"memory_bytes": 8 << 30},
    }
    return msgspec.convert({**defaults, "nats": msgspec.to_builtins(nats), **settings}, ActorSpec)


class Stage:
    """A nats-server with the log on it, and a connection for each of node and client."""

    def __init__(self, server: EmbeddedServer, node: Connection, client: Connection, log: Log) -> None:
        self.server = server
        self.node = node
        self.client = client
        self.log = log

    @asynccontextmanager
    async def actor(
        self, path: Path, *, nats: NatsAccess | None = None, wait: bool = True, **settings: object
    ) -> AsyncIterator[Actor]:
        """A model's process, by default one that has loaded or failed; none stays behind."""
        async with (
            ActorProcess.start(spec(path, nats=nats or self.server.access, **settings)) as process,
            anyio.create_task_group() as tasks,
        ):
            actor = Actor(process, self.node, self.client)
            tasks.start_soon(actor.collect)
            if wait:
                await actor.reported(Ready, Failed)
            yield actor
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def stage(directory: Path) -> AsyncIterator[Stage]:
    async with (
        EmbeddedServer.start(directory / "nats") as server,
        Connection.open(server.access, name="node") as node,
        Connection.open(server.client, name="client") as client,
        Log.open(node, SUBJECTS, source="/node/box1", new_id=new_id, now=utc_now) as log,
    ):
        yield Stage(server, node, client, log)
