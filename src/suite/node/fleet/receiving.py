"""Takes the requests that other nodes have sent on, and tells those what becomes of each (ADR 57, 59).

The node that a request came from has it served elsewhere as long as nobody can have answered it. So a request
is given back when what it is for is not here any more, and given up when this node was cut off.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio.abc
import msgspec

from suite.bus.action import Action
from suite.bus.arrival import Arrival
from suite.bus.connection import Connection, Message
from suite.bus.subscription import Subscription
from suite.catalogue import Catalogue
from suite.errors import NodeStopping, SuiteError
from suite.log import Log
from suite.messages.presence import Forwarded, GetArrivals, KnownArrivals
from suite.messages.subjects import Subjects
from suite.node.fleet.arrivals import Arrivals
from suite.node.fleet.forwarding import (
    ARRIVALS,
    arrived,
    given_back,
    hand_back,
    is_for_another_life,
    tell,
)
from suite.node.fleet.placements import Placements
from suite.node.fleet.presence import Presence
from suite.node.supervisor import Supervisor

logger = logging.getLogger("suite.fleet")

_ENDED: Final = Forwarded(state="ended")
_asked_for = msgspec.json.Decoder(GetArrivals).decode
_encode = msgspec.json.Encoder().encode


class Receiving:
    """The requests of other nodes that this one serves."""

    def __init__(
        self,
        node: str,
        epoch: int,
        connection: Connection,
        subjects: Subjects,
        log: Log,
        *,
        catalogue: Catalogue,
        supervisor: Supervisor,
        placements: Placements,
        presence: Presence,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._node = node
        self._epoch = epoch
        self._connection = connection
        self._subjects = subjects
        self._log = log
        self._catalogue = catalogue
        self._supervisor = supervisor
        self._placements = placements
        self._presence = presence
        self._tasks = tasks
        self._arrivals = Arrivals()
        self._listening: Subscription | None = None
        supervisor.leases.on_answered = self._answered

    async def listen(self, serve: Callable[[Message], Awaitable[None]]) -> None:
        """Take requests from other nodes, and have them served as those of clients are."""
        prefix = self._subjects.node(self._node, "action.")

        async def arrive(message: Message) -> None:
            if is_for_another_life(message, self._epoch):
                logger.debug("a request is for another process of this name: %s", message.subject)
                return
            arrival = arrived(message, self._subjects.action(message.subject[len(prefix) :]))
            self._arrivals.take(arrival.token)
            await serve(arrival)

        await self._connection.listen(self._subjects.node(self._node, ARRIVALS), self._tell_arrivals)
        self._listening = await self._connection.listen(f"{prefix}>", arrive)

    async def stop(self) -> None:
        """Take no more requests: the other nodes have them served elsewhere."""
        if self._listening is not None:
            await self._listening.drain()

    def withdraw(self) -> None:
        """Give up what nobody answers yet: by now the other nodes have it served elsewhere."""
        self._arrivals.withdraw()

    @contextmanager
    def serving(self, arrival: Arrival) -> Iterator[None]:
        """A block in which this node works on another node's request.

        Raises NodeStopping if that one has it served elsewhere by now.
        """
        if not arrival.token:
            yield
            return
        with self._arrivals.withdrawable(arrival.token) as scope:
            yield
        if scope.cancelled_caught:
            raise self._cut_off(arrival)

    async def commit(self, message: Message, instance_id: str, generation_id: str) -> None:
        """Say that a request is answered now, or that the process of an instance is about to answer it.

        Raises NodeStopping for one that another node may have by now.
        """
        if not isinstance(message, Arrival) or not message.token:
            return
        scope = self._arrivals.close(message.token)
        if scope is not None and (scope.cancel_called or self._presence.is_cut_off):
            raise self._cut_off(message)
        if generation_id:
            told = Forwarded(state="handed_over", instance_id=instance_id, generation_id=generation_id)
            self._arrivals.hand_over(message.token, told)
            await tell(self._connection, message.token, told)

    async def end(self, message: Message, *, is_handed_over: bool) -> None:
        """Tell the node that a request came from that it has ended, unless a model's process answers it."""
        self._presence.change()
        if isinstance(message, Arrival) and message.token and not is_handed_over:
            self._arrivals.end(message.token)
            await tell(self._connection, message.token, _ENDED)

    async def return_misplaced(self, action: Action[Any], request: msgspec.Struct, arrival: Arrival) -> bool:
        """Give a request back if what it is for is not here any more. Returns whether it did.

        That also holds for what was read late: the first node has it served elsewhere, or will.
        """
        self._log.see(arrival.last_seq)
        if arrival.token and (self._presence.is_cut_off or self._arrivals.is_withdrawn(arrival.token)):
            await self.hand_back(arrival)
            self._arrivals.end(arrival.token)
            return True
        if action.route != "model" or getattr(request, "model_id", None) is None:
            return False
        if self._is_for_something_else(request, arrival):
            return await self.hand_back(arrival)
        self._presence.change()
        return False

    async def hand_back(self, arrival: Arrival, error: SuiteError | None = None) -> bool:
        """Give a request back to the node that it came from. Returns whether it is no more this node's.

        `error`: why, if it is not for want of its model.
        """
        if not arrival.token:
            return False
        told = given_back(error, self._node)
        is_gone = await hand_back(self._connection, arrival.token, told)
        is_gone = is_gone or self._arrivals.is_withdrawn(arrival.token)
        if is_gone:
            self._arrivals.end(arrival.token)
        return is_gone

    async def give_back(self, message: Message) -> bool:
        """Give a request that is broken off back to the node that it came from, without waiting for that.

        Returns whether that node has it served elsewhere, so that its client must hear nothing from here.
        """
        if not isinstance(message, Arrival) or not message.token:
            return False
        if self._arrivals.is_handed_over(message.token):
            return False
        self._arrivals.end(message.token)
        await tell(self._connection, message.token, given_back(NodeStopping(), self._node))
        return True

    def _cut_off(self, arrival: Arrival) -> NodeStopping:
        """The error that has a request given up, of which its client must not hear."""
        self._arrivals.note_withdrawn(arrival.token)
        return NodeStopping("this node was cut off: others may have the request by now")

    def _answered(self, generation_id: str) -> None:
        """Tell the node that a generation came from that its client has the last message."""
        if (token := self._arrivals.end_generation(generation_id)) is not None:
            self._tasks.start_soon(tell, self._connection, token, _ENDED)

    async def _tell_arrivals(self, message: Message) -> None:
        """Tell another node which of its requests are here."""
        try:
            known = KnownArrivals(requests=self._arrivals.known(_asked_for(message.data).tokens))
            await self._connection.publish(message.reply, _encode(known))
        except (SuiteError, msgspec.MsgspecError) as error:
            logger.debug("which requests are here is not told: %s", error)

    def _is_for_something_else(self, request: msgspec.Struct, arrival: Arrival) -> bool:
        """Whether the instance or the file that a request was sent here for is not here any more.

        One for an instance that is gone stays all the same if this is still the best node for it. Given back,
        it would be served anywhere but here, where others that come now are served: twice loaded.
        """
        model_id = getattr(request, "model_id", "")
        id = self._catalogue.canonical(model_id)
        instance, model = self._supervisor.instances.get(id), self._catalogue.models.get(id)
        is_gone = (
            instance is None or instance.instance_id != arrival.instance_id or instance.occupancy.leaving
        )
        known = instance.sha256 if instance is not None else None
        digest = known or (model.sha256 if model is not None else None)
        is_other = bool(arrival.sha256 and digest) and digest != arrival.sha256
        is_elsewhere = bool(is_gone and arrival.instance_id) and not self._placements.is_best_here(request)
        return is_elsewhere or is_other
