"""The connection comes back by itself, fails at once, and refuses what would cost it the connection."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import msgspec
import pytest
from nats.aio.client import Client

from suite.bus.accounts import User
from suite.bus.connection import Connection, Message
from suite.bus.embedded import EmbeddedServer
from suite.errors import (
    AccessDenied,
    Conflict,
    InvalidRequest,
    NodeLost,
    NoService,
    Overloaded,
    RequestTimeout,
    TooLarge,
    Unavailable,
)
from suite.messages.actor import NatsAccess
from support.faults import KillableServer
from support.nats import eventually, restart_nats, running_nats


async def echo(connection: Connection, subject: str = "suite.echo") -> None:
    async def answer(message: Message) -> None:
        await connection.publish(message.reply, message.data, headers=message.headers)

    await connection.subscribe(subject, answer)


async def hold(connection: Connection, subject: str = "suite.hold") -> None:
    async def ignore(message: Message) -> None:
        del message

    await connection.subscribe(subject, ignore)


def raw_client(connection: Connection) -> Client:
    client = connection._client
    assert client is not None
    return client


async def test_a_request_is_answered_with_headers_and_bytes(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        await echo(connection)
        answer = await connection.request("suite.echo", b"\0\xff", headers={"Word": "ünï"}, timeout=5)
        assert (answer.data, answer.headers) == (b"\0\xff", {"Word": "ünï"})


async def test_nobody_listens(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        with pytest.raises(NoService, match=r"suite\.nobody"):
            await connection.request("suite.nobody", timeout=5)
        with pytest.raises(NoService):
            async with connection.request_many("suite.nobody", idle_timeout=5) as answers:
                await anext(answers)


async def test_nobody_answers(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        await hold(connection)
        with pytest.raises(RequestTimeout):
            await connection.request("suite.hold", timeout=0.05)
        with pytest.raises(NodeLost):
            async with connection.request_many("suite.hold", idle_timeout=0.05) as answers:
                await anext(answers)


async def test_many_answers_end_with_the_empty_one(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):

        async def count(message: Message) -> None:
            for number in range(300):
                await connection.publish(message.reply, str(number).encode())
            await connection.publish(message.reply)

        await connection.subscribe("suite.count", count)
        async with connection.request_many("suite.count", idle_timeout=5) as answers:
            got = [int(answer.data) async for answer in answers]
        assert got == list(range(300))


async def test_the_inbox_of_many_answers_goes_with_its_block(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        inboxes: list[str] = []

        async def answer_once(message: Message) -> None:
            inboxes.append(message.reply)
            await connection.publish(message.reply, b"first")

        await connection.subscribe("suite.once", answer_once)
        async with connection.request_many("suite.once", idle_timeout=5) as answers:
            assert (await anext(answers)).data == b"first"
        with pytest.raises(NoService):
            await connection.request(inboxes[0], timeout=5)


async def test_a_lost_connection_fails_what_waits_at_once_and_everything_works_again(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, connection):
        await echo(connection)
        await hold(connection)
        failed: list[str] = []

        async def wait_for_one() -> None:
            with pytest.raises(Unavailable):
                await connection.request("suite.hold", timeout=3600)
            failed.append("request")

        async def wait_for_many() -> None:
            async with connection.request_many("suite.hold", idle_timeout=3600) as answers:
                with pytest.raises(NodeLost):
                    await anext(answers)
            failed.append("request_many")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_one)
            tasks.start_soon(wait_for_many)
            await connection.flush()
            await restart_nats(server, connection)
        assert sorted(failed) == ["request", "request_many"]
        assert (await connection.request("suite.echo", b"again", timeout=5)).data == b"again"


async def test_nothing_is_kept_for_later_while_disconnected(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, connection):
        got: list[bytes] = []

        async def note(message: Message) -> None:
            got.append(message.data)

        await connection.subscribe("suite.note", note)
        os.kill(server.pid, signal.SIGSTOP)
        await connection.publish("suite.note", b"on its way")
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: not connection.is_connected)
        with pytest.raises(Unavailable):
            await connection.publish("suite.note", b"too late")
        with pytest.raises(Unavailable):
            await connection.request("suite.note", timeout=5)
        await connection.wait_connected(10)
        await connection.publish("suite.note", b"after")
        await eventually(lambda: got)
        assert got == [b"after"]


@pytest.mark.parametrize("fatal", ["subject over the control line", "payload over the limit"])
async def test_the_client_that_nats_py_closes_for_ever_is_replaced(tmp_path: Path, fatal: str) -> None:
    async with running_nats(tmp_path) as (_, connection):
        await echo(connection)
        life = connection.connections
        if fatal.startswith("subject"):
            await raw_client(connection).publish("x" * 5000, b"")
        else:
            headers = {"Filler": "x" * 100}
            await raw_client(connection).publish("suite.x", bytes(connection.max_payload), headers=headers)
        await eventually(lambda: connection.connections > life)
        await connection.wait_connected(10)
        assert (await connection.request("suite.echo", b"alive", timeout=5)).data == b"alive"


async def test_sizes_are_checked_before_sending(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        await echo(connection)
        whole = bytes(connection.max_payload)
        assert len((await connection.request("suite.echo", whole, timeout=10)).data) == len(whole)
        with pytest.raises(TooLarge, match=str(connection.max_payload)):
            await connection.request("suite.echo", whole + b"x", timeout=5)
        with pytest.raises(TooLarge, match="headers"):
            await connection.publish("suite.echo", whole, headers={"A": "b"})
        with pytest.raises(TooLarge, match="subject"):
            await connection.publish("suite." + "x" * 4096)
        assert connection.connections == 1


async def test_the_largest_message_with_headers_goes_through(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        got: list[int] = []

        async def note(message: Message) -> None:
            got.append(len(message.data))

        await connection.subscribe("suite.note", note)
        headers = {"A-b": "ü" * 30, "B": ""}
        room = connection.max_payload
        while True:
            try:
                await connection.publish("suite.note", bytes(room), headers=headers)
                break
            except TooLarge:
                room -= 1
        await connection.flush()
        await eventually(lambda: got == [room])
        assert connection.connections == 1


@pytest.mark.parametrize(
    "subject", ["", "a b", "a\r\nPUB x 0", "a..b", ".a", "a.", "suite.*", "suite.>", "a\0"]
)
async def test_what_is_no_subject_is_refused(tmp_path: Path, subject: str) -> None:
    async with running_nats(tmp_path) as (_, connection):
        with pytest.raises(InvalidRequest):
            await connection.publish(subject, b"x")
        with pytest.raises(InvalidRequest):
            await connection.publish("suite.x", b"x", reply=subject or " ")


async def test_a_callback_that_fails_or_gives_up_gets_the_next_message(tmp_path: Path) -> None:
    got: list[bytes] = []
    async with running_nats(tmp_path) as (_, connection):

        async def fail(message: Message) -> None:
            got.append(message.data)
            if message.data == b"1":
                raise ValueError("on purpose")
            if message.data == b"2":
                raise asyncio.CancelledError

        await connection.subscribe("suite.fail", fail)
        for data in (b"1", b"2", b"3"):
            await connection.publish("suite.fail", data)
        await eventually(lambda: len(got) == 3)
    assert got == [b"1", b"2", b"3"]  # out here: a task that gives up would end the block in silence


async def test_a_callback_is_not_cut_short_by_a_lost_connection(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, connection):
        began, go_on, ended = anyio.Event(), anyio.Event(), anyio.Event()

        async def work(message: Message) -> None:
            del message
            began.set()
            await go_on.wait()
            ended.set()

        await connection.subscribe("suite.work", work)
        await connection.publish("suite.work")
        await began.wait()
        await restart_nats(server, connection)
        go_on.set()
        with anyio.fail_after(10):
            await ended.wait()


async def test_draining_handles_what_has_arrived(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        got: list[bytes] = []

        async def slowly(message: Message) -> None:
            await anyio.sleep(0.001)
            got.append(message.data)

        subscription = await connection.subscribe("suite.slow", slowly)
        for number in range(50):
            await connection.publish("suite.slow", str(number).encode())
        await connection.flush()
        await subscription.drain()
        assert len(got) == 50
        with pytest.raises(NoService):
            await connection.request("suite.slow", timeout=5)


async def test_unsubscribing_holds_across_a_restart(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, connection):
        await echo(connection, "suite.kept")

        async def never(message: Message) -> None:
            raise AssertionError(message.subject)

        gone = await connection.subscribe("suite.gone", never)
        await gone.unsubscribe()
        await restart_nats(server, connection)
        with pytest.raises(NoService):
            await connection.request("suite.gone", timeout=5)
        assert (await connection.request("suite.kept", b"x", timeout=5)).data == b"x"


async def test_nothing_listens_there() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 "):
        async with Connection.open(NatsAccess(url="nats://127.0.0.1:1"), name="test"):
            pass


async def test_something_else_listens_there() -> None:
    async def greet(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.send(b"220 smtp.example ESMTP\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, greet)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(Unavailable):
            async with Connection.open(NatsAccess(url=f"nats://127.0.0.1:{port}"), name="test"):
                pass
        tasks.cancel_scope.cancel()


async def test_a_connection_that_is_given_up_fails_those_who_wait_already(tmp_path: Path) -> None:
    async with (
        KillableServer.start(tmp_path) as server,
        Connection.open(server.access, name="test") as connection,
        anyio.create_task_group() as tasks,
    ):
        await server.kill()
        await eventually(lambda: not connection.is_connected)

        async def wait() -> None:
            with pytest.raises(Unavailable, match="went"):
                await connection.wait_connected(50)

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(20):
            await connection.give_up()


async def test_a_stream_from_what_may_not_be_asked_is_denied_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        running_nats(tmp_path) as (server, _),
        Connection.open(server.client, name="test") as connection,
        connection.request_many("suite.action.rebuild_projection", idle_timeout=50) as answers,
    ):
        with pytest.raises(AccessDenied, match="may not send"):
            await anext(answers)
    assert "violation" not in caplog.text, "who asked has the error"


async def test_wrong_credentials_are_refused_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        url = f"nats://someone:hunter2@127.0.0.1:{server.port}"
        with pytest.raises(AccessDenied) as denied:
            async with Connection.open(NatsAccess(url=url), name="test"):
                pass
        assert "hunter2" not in denied.value.message + caplog.text
        with pytest.raises(AccessDenied, match="who has no password here: set SUITE_NATS_PASSWORD"):
            async with Connection.open(NatsAccess(url=server.access.url, user="someone"), name="test"):
                pass
        with pytest.raises(AccessDenied, match="nowhere"):
            access = NatsAccess(url=server.access.url, credentials_file=str(tmp_path / "nowhere.creds"))
            async with Connection.open(access, name="test"):
                pass


async def test_a_refusal_is_never_taken_for_a_server_that_is_away(tmp_path: Path) -> None:
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        wrong = msgspec.structs.replace(server.client, password="wrong")
        for _ in range(50):  # the server hangs up behind its refusal, which may then be lost
            with pytest.raises(AccessDenied, match=r"user 'client'.*suite credentials show client"):
                async with Connection.open(wrong, name="test"):
                    pass


async def test_who_is_put_out_is_refused_at_once_and_comes_back_when_admitted(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, suite):
        await echo(suite, "suite.action.echo")
        await hold(suite, "suite.action.silent")
        before = server.users
        client, other = server.client, server.operator
        async with (
            Connection.open(client, name="test") as connection,
            Connection.open(other, name="other") as undisturbed,
            connection.request_many("suite.action.silent", idle_timeout=50) as answers,
        ):
            await server.admit([user for user in before if user.name != "client"])
            with pytest.raises(NodeLost, match="send the request again"), anyio.fail_after(20):
                _ = [answer async for answer in answers]
            await eventually(lambda: connection.refusal)
            with pytest.raises(AccessDenied, match="user 'client'"):
                await connection.request("suite.action.echo", timeout=50)
            await server.admit(before)
            await connection.wait_connected(20)
            assert connection.refusal is None
            assert (await connection.request("suite.action.echo", b"again", timeout=5)).data == b"again"
            assert (connection.connections, undisturbed.connections) == (2, 1)


async def test_a_lost_connection_is_made_again_to_where_the_service_is_by_then(tmp_path: Path) -> None:
    where: list[NatsAccess] = []

    asked = 0

    def rediscover() -> NatsAccess:
        nonlocal asked
        asked += 1
        if not where:
            raise Unavailable("no service is running")
        return where[0]

    async with EmbeddedServer.start(tmp_path / "new") as new, AsyncExitStack() as stack:
        old = await stack.enter_async_context(EmbeddedServer.start(tmp_path / "old"))
        connection = await stack.enter_async_context(
            Connection.open(old.client, name="test", rediscover=rediscover)
        )
        users = old.users
        await old.admit([])
        await eventually(lambda: not connection.is_connected)
        await old.admit(users)
        await eventually(lambda since=asked: asked > since + 2)  # type: ignore[misc]
        assert connection.connections == 1, "what listens at the old address may be another process"
        with pytest.raises(Unavailable) as unavailable:
            await connection.flush()
        assert not isinstance(unavailable.value, AccessDenied), "nobody has said yet who may connect"
        where.append(new.operator)
        await connection.wait_connected(20)
        assert connection.new_inbox().startswith("_INBOX.operator.")
        with pytest.raises(NoService):
            await connection.request("suite.action.nobody", timeout=5)


async def test_a_password_that_is_being_replaced_is_asked_for_again(tmp_path: Path) -> None:
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        wrong, right = msgspec.structs.replace(server.client, password="wrong"), server.client
        found = iter([wrong, right])
        async with Connection.open(wrong, name="test", rediscover=lambda: next(found)) as connection:
            assert connection.is_connected
        with pytest.raises(AccessDenied), anyio.fail_after(20):
            async with Connection.open(wrong, name="test", rediscover=lambda: wrong):
                pass


async def test_a_right_that_comes_back_after_a_reconnection_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("suite.bus.connection.REGAIN_SECONDS", 0.5)
    full, reduced = User("node", "suite", "n"), User("node", "client", "n")
    async with (
        EmbeddedServer.start(tmp_path / "nats", users=[full]) as server,
        Connection.open(server.access, name="asks") as asking,
        Connection.open(server.access_of("node"), name="node") as connection,
    ):
        for subject in ("suite.action.one", "suite.action.two"):
            await echo(connection, subject)
        await server.admit([reduced])
        await eventually(lambda: "suite.action.two: permissions violation" in caplog.text)
        await restart_nats(server, connection, asking)
        await server.admit([full])
        with anyio.fail_after(20):
            for subject in ("suite.action.one", "suite.action.two"):
                while True:
                    try:
                        await asking.request(subject, timeout=5)
                    except NoService:
                        await anyio.sleep(0.05)
                    else:
                        break


async def test_the_bodys_exception_comes_out_as_it_is(tmp_path: Path) -> None:
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        with pytest.raises(Conflict):
            async with Connection.open(server.access, name="test"):
                raise Conflict


async def test_closing_does_not_hang_on_a_server_that_stands_still(tmp_path: Path) -> None:
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        try:
            with anyio.fail_after(15):
                async with Connection.open(server.access, name="test") as connection:
                    os.kill(server.pid, signal.SIGSTOP)
                    with anyio.move_on_after(0.5):
                        while True:
                            await connection.publish("suite.x", bytes(500_000))
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_a_flush_that_is_given_up_costs_no_connection(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        for _ in range(5):
            with anyio.move_on_after(0):
                await connection.flush()
        await connection.flush()
        assert connection.connections == 1


async def test_after_a_flush_the_server_has_all_that_was_sent(tmp_path: Path) -> None:
    async with (
        running_nats(tmp_path) as (server, connection),
        Connection.open(server.access, name="o") as other,
    ):
        for number in range(100):
            subject = f"suite.flushed.{number}"

            async def answer(message: Message) -> None:
                await connection.publish(message.reply, b"here")

            await connection.listen(subject, answer)
            await connection.flush()
            assert (await other.request(subject, timeout=5)).data == b"here"


async def test_answers_that_nobody_reads_end_with_overloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.bus.stream.BUFFER_LIMIT", 10)
    async with running_nats(tmp_path) as (_, connection):
        sent = anyio.Event()

        async def flood(message: Message) -> None:
            for _ in range(100):
                await connection.publish(message.reply, b"x")
            await connection.flush()
            sent.set()

        await connection.subscribe("suite.flood", flood)
        async with connection.request_many("suite.flood", idle_timeout=5) as answers:
            await sent.wait()
            got = 0
            with pytest.raises(Overloaded):
                async for _ in answers:
                    got += 1
        assert got == 10
