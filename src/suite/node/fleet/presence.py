"""Tells the other nodes what this one is and does, and hears what they tell (ADR 57).

Nothing waits for it: a state that is lost is followed by the next one, a second later at most. Conversations
are told once; who has missed a state asks for all of them.

A node hears its own states too. When it has not for a while, it was stopped, or NATS did not reach it; when
it hears none of several others, it may reach its own server only. Either way the others count it as lost, and
have its work done elsewhere (ADR 59).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio
import anyio.abc
import msgspec

from suite.bus.connection import Connection, Message
from suite.domain.nodes import NodeView
from suite.errors import SuiteError, TooLarge, Unavailable
from suite.identity import Clock, boot_clock
from suite.messages.presence import (
    PROTOCOL,
    CataloguePage,
    GetPresence,
    Introduction,
    NodeState,
    OfferedModel,
)
from suite.messages.subjects import Subjects
from suite.node.fleet.peers import LOST_SECONDS, Peers
from suite.node.fleet.state import OwnState
from suite.ticks import next_tick

logger = logging.getLogger("suite.fleet")

TELL_SECONDS: Final = 1.0
"""How often a node tells what it is when nothing has changed."""
LEAST_PAUSE_SECONDS: Final = 0.02
"""The pause from one state to the next: what changes meanwhile is told together."""
PAUSE_SECONDS_PER_NODE: Final = 0.001
"""It is that long for each other node, so that what a node hears of changes does not grow with their square:
a thousand states a second at most, besides those of each second."""
CUT_OFF_SECONDS: Final = 1.8
"""A node that has not heard its own states for so long, or those of any other, may be lost to others. They
wait longer (`LOST_SECONDS`): they may have heard it last up to `TELL_SECONDS` before it heard them."""
SEVERAL: Final = 2
"""When so many others are silent at the same time, it is rather this node that does not hear. Of one other it
cannot be told: that has rather crashed, and this one goes on."""
MOST_UNHEARD: Final = 1_000
"""So many states that have not come back are remembered, the newest ones."""
LATE_SECONDS: Final = 0.5
"""A node that wakes so much too late could not hear the others meanwhile, and gives them time."""
ACQUAINTED_SECONDS: Final = 1.2
"""So long after its start a node has heard of all others: they tell something every second."""
ASK_SECONDS: Final = 2.0

_encode = msgspec.json.Encoder().encode
_state_of = msgspec.json.Decoder(NodeState).decode
_introduction_of = msgspec.json.Decoder(Introduction).decode
_asked = msgspec.json.Decoder(GetPresence).decode
_page_of = msgspec.json.Decoder(CataloguePage).decode


class Presence:
    """The part of a node that tells and hears."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        own: OwnState,
        peers: Peers,
        *,
        clock: Clock = boot_clock,
        on_lost: Callable[[str], None] = lambda _: None,
        on_left: Callable[[str], None] = lambda _: None,
        on_cut_off: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_lost` is called with a node that is silent, `on_left` with one that stops; `on_cut_off` when
        this node itself was stopped, or without NATS, for so long that the others may count it as lost.
        `clock` must go on while the machine is suspended.
        """
        self._connection = connection
        self._subjects = subjects
        self._own = own
        self._peers = peers
        self._clock = clock
        self._on_lost = on_lost
        self._on_left = on_left
        self._on_cut_off = on_cut_off
        self._was_cut_off = False
        self._unheard: dict[int, float] = {}
        """When the states were told that have not come back yet, by their numbers."""
        self._heard_at = clock()
        """When the newest state was told that has come back."""
        self._heard_others_at = clock()
        """When the last state of any other node came."""
        self._began = clock()
        self._came: list[int] = []
        self._changed = anyio.Event()
        self._asking: set[str] = set()
        self._tasks: anyio.abc.TaskGroup

    @property
    def view(self) -> NodeView:
        """This node, as it is decided about here."""
        return self._own.view

    @property
    def is_cut_off(self) -> bool:
        """Whether others may count this node as lost: its own states do not come back to it, or it hears none
        of several others.
        """
        return self._is_unheard or self._hears_nobody

    @property
    def _is_unheard(self) -> bool:
        return self._clock() - self._heard_at > CUT_OFF_SECONDS

    @property
    def _hears_nobody(self) -> bool:
        is_silent = self._clock() - self._heard_others_at > CUT_OFF_SECONDS
        return is_silent and len(self._peers.states) >= SEVERAL

    @property
    def is_acquainted(self) -> bool:
        """Whether this node has heard of all others, and knows what they could load."""
        is_early = self._clock() - self._began < ACQUAINTED_SECONDS
        states = self._peers.states.values()
        return not is_early and all(self._peers.knows_catalogue(each.catalogue) for each in states)

    async def acquaint(self) -> None:
        """Wait until this node knows the others, for as long as that takes if they answer."""
        with anyio.move_on_after(ACQUAINTED_SECONDS + ASK_SECONDS):
            while not self.is_acquainted:  # noqa: ASYNC110 - time is one of the reasons
                await anyio.sleep(LEAST_PAUSE_SECONDS)

    def change(self) -> None:
        """Tell the others soon that something has changed, if there are any."""
        if self._peers.states:
            self._changed.set()

    def note_conversation(self, conversation: int) -> None:
        """Note that a conversation has come to this node, by its hash."""
        self._peers.note_conversation(conversation, self._own.node)
        self._came.append(conversation)
        self.change()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Tell and hear until cancelled, and say in the end that the node leaves."""
        async with anyio.create_task_group() as self._tasks:
            await self._connection.listen(self._subjects.every_node("state"), self._hear)
            await self._connection.listen(self._subjects.node(self._own.node, "presence"), self._answer)
            self._own.look()
            await self._tell()
            task_status.started()
            try:
                await self._keep_telling()
            finally:
                with anyio.move_on_after(TELL_SECONDS, shield=True):
                    await self._tell(is_leaving=True)

    async def _keep_telling(self) -> None:
        self._began = self._heard_at = self._clock()
        while True:
            due = next_tick(TELL_SECONDS)
            with anyio.CancelScope(deadline=due) as waiting:
                await self._changed.wait()
            self._changed = anyio.Event()
            is_unheard = self._is_unheard
            self._look_at_oneself()
            if is_unheard or anyio.current_time() > due + LATE_SECONDS:
                self._peers.give_time()
            if waiting.cancelled_caught:
                self._own.look()
                self._look_for_lost()
            await self._tell()
            await anyio.sleep(pause_seconds(len(self._peers.states)))

    def _look_at_oneself(self) -> None:
        """Heed that this node was cut off, before the others hear of it again."""
        was_cut_off, self._was_cut_off = self._was_cut_off, self.is_cut_off
        if self._was_cut_off and not was_cut_off:
            if self._peers.states:
                away = self._clock() - min(self._heard_at, self._heard_others_at)
                logger.warning("this node was stopped, or cut off, for %.1f s: others do its work", away)
            self._on_cut_off()
        elif was_cut_off and not self._was_cut_off:
            logger.info("this node is not cut off any more")

    def _look_for_lost(self) -> None:
        for node in self._peers.silent():
            logger.warning("node %s has told nothing for %g s: it gets no work", node, LOST_SECONDS)
            self._lose(node)

    def _lose(self, node: str) -> None:
        self._peers.lose(node)
        self._on_lost(node)

    async def _tell(self, *, is_leaving: bool = False) -> None:
        came, self._came = self._came, []
        state = self._own.state(came, is_leaving=is_leaving)
        self._unheard[state.number] = self._clock()
        if len(self._unheard) > MOST_UNHEARD:
            del self._unheard[next(iter(self._unheard))]
        try:
            await self._connection.publish(self._subjects.node(self._own.node, "state"), _encode(state))
        except (Unavailable, TooLarge) as error:
            self._unheard.pop(state.number, None)
            logger.debug("what this node does is not told: %s", error)

    async def _hear(self, message: Message) -> None:
        try:
            introduced = _introduction_of(message.data)
            if introduced.protocol != PROTOCOL:
                self._meet(introduced)
                return
            state = _state_of(message.data)
        except msgspec.MsgspecError as error:
            logger.debug("a state of a node that nobody understands: %s", error)
            return
        if state.node == self._own.node:
            self._hear_oneself(state)
        else:
            self._hear_of(state)

    def _hear_oneself(self, state: NodeState) -> None:
        if state.epoch == self._own.epoch and (told := self._unheard.get(state.number)) is not None:
            self._heard_at = told
            self._unheard = {number: at for number, at in self._unheard.items() if number > state.number}

    def _meet(self, stranger: Introduction) -> None:
        if stranger.node not in self._peers.strangers:
            logger.warning(
                "node %s runs version %s, which does not work together with this one: it gets no work",
                stranger.node,
                stranger.version,
            )
        self._peers.meet(stranger)

    def _hear_of(self, state: NodeState) -> None:
        self._heard_others_at = self._clock()
        if self._peers.is_new_life(state):
            self._lose(state.node)
        known = self._peers.states.get(state.node)
        missed = self._peers.hear(state)
        if state.is_leaving:
            if known is not None and known.epoch == state.epoch:
                self._on_left(state.node)
            return
        if known is None and state.node in self._peers.states:
            self._changed.set()  # it may not have heard of this one
        is_known = not missed and self._peers.knows_catalogue(state.catalogue)
        if state.node in self._peers.states and not is_known and state.node not in self._asking:
            self._asking.add(state.node)
            self._tasks.start_soon(self._ask, state.node, missed)

    async def _ask(self, node: str, missed: bool) -> None:
        """Ask a node for what it told before, and for what it could load."""
        try:
            if missed:
                for conversation in (await self._state_of(node)).conversations:
                    self._peers.note_conversation(conversation, node)
            state = self._peers.states.get(node)
            if state is not None and not self._peers.knows_catalogue(state.catalogue):
                catalogue, models = await self._catalogue_of(node)
                self._peers.learn_catalogue(catalogue, models)
        except (SuiteError, msgspec.MsgspecError) as error:
            logger.debug("node %s does not tell all of itself: %s", node, error)
        finally:
            self._asking.discard(node)

    async def _state_of(self, node: str) -> NodeState:
        return _state_of(await self._request(node, GetPresence()))

    async def _catalogue_of(self, node: str) -> tuple[str, dict[str, OfferedModel]]:
        """What a node could load, with the id of that. Pages of a catalogue that has changed begin again."""
        models: dict[str, OfferedModel] = {}
        catalogue, after = "", ""
        while True:
            page = _page_of(await self._request(node, GetPresence(catalogue_after=after)))
            if page.catalogue != catalogue and after:
                models, catalogue, after = {}, "", ""
                continue
            catalogue = page.catalogue
            models |= page.models
            if page.is_last or not page.models:
                return catalogue, models
            after = max(page.models)

    async def _request(self, node: str, request: GetPresence) -> bytes:
        subject = self._subjects.node(node, "presence")
        answer = await self._connection.request(subject, _encode(request), timeout=ASK_SECONDS)
        return answer.data

    async def _answer(self, message: Message) -> None:
        """Tell another node all that it asks for."""
        try:
            request = _asked(message.data)
        except msgspec.MsgspecError:
            return
        answer: NodeState | CataloguePage
        if request.catalogue_after is None:
            answer = self._own.again(self._peers.own_conversations)
        else:
            answer = self._own.page(request.catalogue_after)
        try:
            await self._connection.publish(message.reply, _encode(answer))
        except SuiteError as error:
            logger.debug("what another node asks for is not told: %s", error)


def pause_seconds(others: int) -> float:
    """How long a node with so many others waits from one state to the next."""
    return max(LEAST_PAUSE_SECONDS, others * PAUSE_SECONDS_PER_NODE)
