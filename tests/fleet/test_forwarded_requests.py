"""What becomes of requests that another node has: they end once, whatever dies (ADR 59).

The first node is real, and so is NATS. The other node is played by the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.actions.generation import generate_text
from suite.bus.connection import Connection, Message
from suite.bus.wire import Message as WireMessage
from suite.errors import LoadFailed, Overloaded, SuiteError
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.actor import GenerationProgress, ProgressReply
from suite.messages.presence import Forwarded, ForwardedState, GetArrivals, KnownArrivals
from suite.messages.subjects import Subjects
from suite.node.fleet import forwarding
from suite.node.fleet.forwarding import (
    ARRIVALS,
    Forwarding,
    Sent,
    given_back,
    hand_back,
    is_for_another_life,
    tell,
)
from suite.telemetry import exposing
from support.nats import eventually, running_nats

SUBJECTS = Subjects()
REQUEST = GenerateTextRequest(model_id="tiny", prompt="Once")


class Rig:
    """A node that forwards to `box2`, and what it did in the end with each request."""

    def __init__(self, connection: Connection, tasks: anyio.abc.TaskGroup) -> None:
        self.connection = connection
        self.again: list[Sent] = []
        self.reasons: list[str] = []
        self.given_up: list[Sent] = []
        self.tokens: list[str] = []
        self.asked: set[str] = set()
        """The requests that `box2` was asked for."""
        self.forwarding = Forwarding(connection, SUBJECTS, tasks, self._again, self._give_up)

    async def _again(self, sent: Sent, reason: SuiteError) -> None:
        self.again.append(sent)
        self.reasons.append(reason.code)

    async def _give_up(self, sent: Sent) -> None:
        self.given_up.append(sent)

    async def send(self) -> str:
        """Forward a request; the subject on which its node tells what becomes of it."""
        message = WireMessage(subject="", data=b"{}", headers={}, reply="_INBOX.client.1")
        count = len(self.tokens)
        sent = Sent(message, generate_text, REQUEST, "box2", frozenset({"box2"}))
        await self.forwarding.send(sent, epoch=1, last_seq=0)
        await eventually(lambda: len(self.tokens) > count)
        return self.tokens[-1]

    async def know(self, requests: Mapping[str, Forwarded | None]) -> None:
        """Have `box2` say that it has these requests, whenever it is asked."""

        async def answer(message: Message) -> None:
            self.asked |= set(msgspec.json.decode(message.data, type=GetArrivals).tokens)
            known = KnownArrivals(requests=dict(requests))
            await self.connection.publish(message.reply, msgspec.json.encode(known))

        await self.connection.subscribe(SUBJECTS.node("box2", ARRIVALS), answer)

    async def tell(self, token: str, state: ForwardedState, generation_id: str = "") -> None:
        instance_id = "i1" if generation_id else ""
        told = Forwarded(state=state, instance_id=instance_id, generation_id=generation_id)
        await tell(self.connection, token, told)
        await self.connection.flush()
        await anyio.sleep(0.05)  # it is delivered, and read in the next round of the loop


@asynccontextmanager
async def rig(directory: Path) -> AsyncIterator[Rig]:
    async with running_nats(directory) as (_, connection), anyio.create_task_group() as tasks:
        made = Rig(connection, tasks)

        async def take(message: Message) -> None:
            made.tokens.append(message.reply)

        await made.forwarding.listen()
        await connection.subscribe(SUBJECTS.node("box2", "action.>"), take)
        yield made
        tasks.cancel_scope.cancel()


async def test_what_waits_on_a_lost_node_goes_elsewhere_and_what_it_gives_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        given_back = await made.send()
        assert await hand_back(made.connection, given_back)
        await eventually(lambda: len(made.again) == 1)
        await made.send()
        made.forwarding.lose("box2")
        await eventually(lambda: len(made.again) == 2)
        made.forwarding.lose("box2")
        assert await hand_back(made.connection, given_back), "the first node knows that it is settled"
        await anyio.sleep(0.1)
        assert (len(made.again), made.given_up) == (2, [])


async def test_what_another_node_is_given_is_counted_by_node_and_action(tmp_path: Path) -> None:
    with exposing("off", node="box1", process="node") as exposition:
        async with rig(tmp_path) as made:
            assert b"suite_forwards_total 0.0" in exposition.text()
            for _ in range(2):
                await made.send()
    counted = b'suite_forwards_total{messaging_destination_name="generate_text",suite_peer="box2"} 2.0'
    assert counted in exposition.text()


async def test_a_generation_ends_with_node_lost_when_its_process_is_lost_too(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        token = await made.send()
        await made.tell(token, "handed_over", "g1")
        asked = anyio.Event()

        async def say(message: Message) -> None:
            progress = GenerationProgress(has_slot=True, completion_tokens=3)
            await made.connection.publish(
                message.reply, msgspec.json.encode(ProgressReply(generations={"g1": progress}))
            )
            asked.set()

        process = await made.connection.subscribe(SUBJECTS.actor("box2", "i1", "progress"), say)
        made.forwarding.lose("box2")
        await asked.wait()
        assert (made.again, made.given_up) == ([], []), "its process goes on"
        await process.unsubscribe()
        await eventually(lambda: made.given_up)
        assert not made.again, "some of its text may be with the client"


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "not-told"])
async def test_a_generation_that_had_its_end_gets_no_other(tmp_path: Path, is_told: bool) -> None:
    async with rig(tmp_path) as made:
        token = await made.send()
        await made.tell(token, "handed_over", "g1")
        asked = anyio.Event()

        async def say(message: Message) -> None:
            await made.connection.publish(message.reply, msgspec.json.encode(ProgressReply(generations={})))
            asked.set()

        process = await made.connection.subscribe(SUBJECTS.actor("box2", "i1", "progress"), say)
        if is_told:
            await made.tell(token, "ended")
        made.forwarding.lose("box2")
        if not is_told:
            await asked.wait()
        await process.unsubscribe()
        await anyio.sleep(0.2)
        made.forwarding.lose("box2")
        await anyio.sleep(0.2)
        assert (made.again, made.given_up) == ([], [])


async def test_a_node_that_was_cut_off_sends_nothing_again(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.send()
        made.forwarding.doubt()
        with anyio.fail_after(5):
            await made.forwarding.settle()
        made.forwarding.lose("box2")
        await eventually(lambda: made.given_up)
        assert not made.again


async def test_another_process_of_the_name_leaves_a_request_alone(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        came: list[Message] = []

        async def take(message: Message) -> None:
            came.append(message)

        await made.connection.subscribe(SUBJECTS.node("box2", "action.>"), take)
        await made.send()
        await eventually(lambda: came)
        assert not is_for_another_life(came[0], epoch=1)
        assert is_for_another_life(came[0], epoch=2)


async def test_nobody_takes_back_what_a_node_sent_that_is_gone(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        assert not await hand_back(made.connection, made.connection.new_inbox())


async def test_only_a_request_that_nobody_listens_for_stays_with_a_node_that_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "HAND_BACK_SECONDS", 0.2)

    async def say_nothing(_: Message) -> None:
        pass

    async with rig(tmp_path) as made:
        token = made.connection.new_inbox()
        await made.connection.subscribe(token, say_nothing)
        assert await hand_back(made.connection, token), "the other has it served elsewhere, or will"


async def test_the_client_hears_why_its_request_was_given_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        token = await made.send()
        await hand_back(made.connection, token, given_back(LoadFailed("no memory for it"), "box2"))
        await hand_back(made.connection, await made.send())
        await made.send()
        made.forwarding.leave("box2")
        await made.send()
        made.forwarding.lose("box2")
        await eventually(lambda: len(made.again) == 4)
        assert made.reasons == ["load_failed", "node_stopping", "node_stopping", "node_lost"]


async def test_what_its_node_does_not_have_any_more_is_forgotten(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        gone, kept, generated = [await made.send() for _ in range(3)]
        process = Forwarded(state="handed_over", instance_id="i1", generation_id="g1")
        await made.know({kept: None, generated: process})
        await made.forwarding.look(after_seconds=0.0)
        assert made.asked == {gone, kept, generated}
        await made.tell(generated, "ended")
        made.forwarding.lose("box2")
        await eventually(lambda: made.again)
        await anyio.sleep(0.1)
        assert (len(made.again), made.given_up) == (1, []), "one had ended, its last word was lost"
        made.asked.clear()
        await made.forwarding.look(after_seconds=0.0)
        assert not made.asked


async def test_a_node_that_was_cut_off_learns_whose_process_answers(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        generated, kept = [await made.send() for _ in range(2)]
        process = Forwarded(state="handed_over", instance_id="i1", generation_id="g1")
        await made.know({generated: process, kept: None})
        asked = anyio.Event()

        async def say(message: Message) -> None:
            progress = GenerationProgress(has_slot=True, completion_tokens=3)
            await made.connection.publish(
                message.reply, msgspec.json.encode(ProgressReply(generations={"g1": progress}))
            )
            asked.set()

        await made.connection.subscribe(SUBJECTS.actor("box2", "i1", "progress"), say)
        made.forwarding.doubt()
        await eventually(lambda: made.asked == {generated, kept})
        await anyio.sleep(0.1)
        made.forwarding.lose("box2")
        await asked.wait()
        await eventually(lambda: made.again)
        assert (len(made.again), made.given_up) == (1, []), "the process goes on with the other"


async def test_what_was_not_confirmed_for_long_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "UNCONFIRMED_SECONDS", 0.0)
    async with rig(tmp_path) as made:
        await made.send()
        made.forwarding.lose("box2")
        await eventually(lambda: made.given_up)
        assert not made.again


async def test_a_node_hands_over_only_so_many_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "MOST_SENT", 1)
    async with rig(tmp_path) as made:
        token = await made.send()
        with pytest.raises(Overloaded):
            await made.send()
        await made.tell(token, "ended")
        await made.send()
