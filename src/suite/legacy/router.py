"""A ROUTER socket that sends exactly one reply to every message, valid or not.

The older services used a REP socket. REQ clients work with a ROUTER in the same way, but here one slow
request does not delay the others. ZeroMQ drops replies to clients that are gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.lowlevel
import msgspec

from suite.bus.refusal import error_reply
from suite.errors import NodeStopping, Overloaded, SuiteError

if TYPE_CHECKING:
    from suite.legacy.sockets import Socket

log = logging.getLogger("suite.legacy")

Answer: TypeAlias = Callable[[Sequence[bytes]], Awaitable[bytes]]
"""Takes the parts of a message and returns the reply. Raises SuiteError to refuse it."""

_encode = msgspec.json.Encoder().encode


class Router:
    """Answers the messages on one ROUTER socket, many at a time."""

    def __init__(self, socket: Socket, answer: Answer, *, limit: int) -> None:
        self._socket = socket
        self._answer = answer
        self._limit = limit
        """How many messages are handled at once. Any above that are refused with `overloaded`."""
        self._in_work = 0

    async def run(self) -> None:
        """Answer until cancelled. Requests that are then unfinished are answered with `node_stopping`."""
        async with anyio.create_task_group() as tasks:
            while True:
                envelope, parts = _opened(await self._socket.recv_multipart())
                if self._in_work >= self._limit:
                    await self._refuse(
                        envelope, Overloaded(f"{self._in_work} requests are in work: try again later")
                    )
                else:
                    self._in_work += 1
                    tasks.start_soon(self._work, envelope, parts)
                # A receive never suspends while messages are waiting: a flood would block the event loop.
                await anyio.lowlevel.checkpoint()

    async def _work(self, envelope: Sequence[bytes], parts: Sequence[bytes]) -> None:
        try:
            reply = await self._answer(parts)
        except SuiteError as error:
            await self._refuse(envelope, error)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._refuse(envelope, NodeStopping())
            raise
        except Exception:
            log.exception("the request of an older client failed")
            await self._refuse(
                envelope, SuiteError("the service failed on this request: its log has the cause")
            )
        else:
            await self._send(envelope, reply)
        finally:
            self._in_work -= 1

    async def _refuse(self, envelope: Sequence[bytes], error: SuiteError) -> None:
        await self._send(envelope, _encode(error_reply(error)))

    async def _send(self, envelope: Sequence[bytes], reply: bytes) -> None:
        await self._socket.send_multipart([*envelope, reply])


def _opened(frames: Sequence[bytes]) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Split frames into the envelope, which the reply must repeat, and the parts of the message.

    An empty frame separates them if the message comes from a REQ client or through a proxy. A DEALER client
    may omit that frame; the reply then omits it too.
    """
    for index, frame in enumerate(frames):
        if not frame and index:
            return frames[: index + 1], frames[index + 1 :]
    return frames[:1], frames[1:]
