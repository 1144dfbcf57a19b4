"""Which conversation a chat goes on with, told by its messages alone (ADR 54).

A client sends all messages each time. A chat whose first messages are all those of an earlier request goes
on with that conversation, so that its tokens are found: in a slot, or in a snapshot after the model was
unloaded.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
from msgspec import Raw

from suite.gateway.encoding import encode

MOST_KNOWN: Final = 10_000
"""How many conversations are remembered; the one that was silent for the longest is forgotten first."""
_PREFIX: Final = "chat-"


class _Role(msgspec.Struct):
    role: str = ""


_read_messages: Final = msgspec.json.Decoder(tuple[Raw, ...]).decode
_read_role: Final = msgspec.json.Decoder(_Role).decode


class Conversations:
    """The conversations that a gateway knows: for each the messages of its last request, as a digest."""

    def __init__(self, most_known: int = MOST_KNOWN) -> None:
        self._most_known = most_known
        self._ids: OrderedDict[bytes, str] = OrderedDict()
        """The ids of conversations, by the digest of the messages of their last request."""
        self._known: set[str] = set()
        """All these ids."""
        self._running: set[str] = set()

    @contextmanager
    def taken(self, scope: Sequence[str], messages: object) -> Iterator[str | None]:
        """The id of the conversation of these messages, for as long as it is answered.

        ``scope`` tells apart what has the same messages and is another conversation: model, key, session.
        ``messages`` are those of a GenerateTextRequest, or `msgspec.Raw`. None: they are no messages.
        """
        try:
            digests, opening = _digests(scope, messages)
        except (msgspec.DecodeError, UnicodeDecodeError):
            yield None
            return
        found = self._find(digests)
        id = self._new(digests, opening) if found is None else self._ids[found]
        self._running.add(id)
        try:
            yield id
            self._remember(digests[-1], id, instead_of=found)
        finally:
            self._running.discard(id)

    def _remember(self, digest: bytes, id: str, *, instead_of: bytes | None) -> None:
        if instead_of is not None and self._ids.get(instead_of) == id:
            del self._ids[instead_of]
        replaced = self._ids.pop(digest, id)
        self._ids[digest] = id
        self._known.add(id)
        self._known -= {replaced} - {id}
        if len(self._ids) > self._most_known:
            self._known.discard(self._ids.popitem(last=False)[1])

    def _find(self, digests: Sequence[bytes]) -> bytes | None:
        """The digest of the last request that is the longest beginning of this one, if it is not running.

        A conversation that is running is not gone on with: this is another one that has begun alike.
        """
        for digest in reversed(digests):
            id = self._ids.get(digest)
            if id is not None and id not in self._running:
                return digest
        return None

    def _new(self, digests: Sequence[bytes], opening: bytes) -> str:
        """An id that another gateway, or this one after a restart, gives to these messages too.

        It comes from the messages up to the user's first, as all requests of a conversation have them; where
        another conversation has that id, from all messages.
        """
        id = _id(opening)
        while id in self._known or id in self._running:
            id = _id(hashlib.sha256(digests[-1] + id.encode()).digest())
        return id


def _digests(scope: Sequence[str], messages: object) -> tuple[list[bytes], bytes]:
    """The digest of each beginning of the messages, and of that which ends with the user's first."""
    state = hashlib.sha256(encode(scope))
    digests: list[bytes] = []
    opening: bytes | None = None
    for message in _read_messages(messages if isinstance(messages, Raw) else encode(messages)):
        state.update(hashlib.sha256(message).digest())
        digests.append(state.digest())
        if opening is None and _read_role(message).role == "user":
            opening = digests[-1]
    digests = digests or [state.digest()]
    return digests, opening or digests[-1]


def _id(digest: bytes) -> str:
    return _PREFIX + digest.hex()[:32]
