"""NATS subjects, and the encoding of ids in them.

An id becomes one subject token: everything outside letters, digits, ``-`` and ``_`` is percent-encoded::

    escape("Llama 3.2 1B.Q4_K_M")  ->  "Llama%203%2E2%201B%2EQ4_K_M"
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote, unquote

from suite.errors import InvalidRequest

MAX_ID_BYTES = 255


@lru_cache(maxsize=4096)
def escape(id: str) -> str:
    """The subject token of an id, percent-encoded (RFC 3986) including the dot and the tilde.

    Raises InvalidRequest for an id that is empty, over 255 bytes in UTF-8, or not valid Unicode.
    """
    try:
        size = len(id.encode())
    except UnicodeEncodeError:
        raise InvalidRequest("an id holds a lone surrogate: send valid Unicode") from None
    if not 0 < size <= MAX_ID_BYTES:
        raise InvalidRequest(f"an id has {size} bytes: it must have 1 to {MAX_ID_BYTES}")
    return quote(id, safe="").replace(".", "%2E").replace("~", "%7E")


def unescape(token: str) -> str:
    """The id that a subject token stands for."""
    return unquote(token, errors="strict")


def event_tail(aggregate: str, ids: tuple[str, ...], fact: str) -> str:
    """What stands behind ``suite.event.`` in the subject of a fact. Raises as `escape` does."""
    return ".".join((aggregate, *map(escape, ids), fact))


def aggregate_of(subject: str) -> tuple[str, str]:
    """The kind of aggregate that the subject of an event names, and what stands behind it."""
    aggregate, _, rest = subject.partition(".event.")[2].partition(".")
    return aggregate, rest


class Subjects:
    """The subjects of the suite; their first token is configurable."""

    def __init__(self, root: str = "suite") -> None:
        self.root = root

    @property
    def stream(self) -> str:
        """The name of the JetStream stream that holds the log."""
        return escape(self.root).upper().replace("%", "_")

    @property
    def events(self) -> str:
        """The subject filter of all events."""
        return f"{self.root}.event.>"

    def action(self, name: str) -> str:
        """The subject of one action."""
        return f"{self.root}.action.{name}"

    def event(self, aggregate: str, ids: tuple[str, ...], fact: str) -> str:
        """The subject of one fact, such as ``suite.event.instance.box1.tiny.loaded``."""
        return f"{self.root}.event.{event_tail(aggregate, ids, fact)}"

    def each_event(self, aggregate: str, ids: int, fact: str) -> str:
        """The subject filter of one fact, whatever its so many ids: ``suite.event.instance.*.*.loaded``."""
        return ".".join((self.root, "event", aggregate, *["*"] * ids, fact))

    def aggregate(self, aggregate: str, *ids: str) -> str:
        """The subject filter of one aggregate's facts; with fewer ids, of all aggregates under them."""
        return ".".join((self.root, "event", aggregate, *map(escape, ids), ">"))

    def each(self, aggregate: str, id: str, fact: str) -> str:
        """The subject filter of one fact of all aggregates under an id, such as each load of a node."""
        return f"{self.root}.event.{aggregate}.{escape(id)}.*.{fact}"

    def actor(self, node: str, instance_id: str, operation: str) -> str:
        """The subject of an operation of one actor process; only the actor and its node use it."""
        return f"{self.root}.actor.{escape(node)}.{escape(instance_id)}.{operation}"

    def each_actor(self, operation: str) -> str:
        """The subject filter of an operation of all actor processes."""
        return f"{self.root}.actor.*.*.{operation}"

    def node(self, node: str, operation: str) -> str:
        """The subject of an operation of one node process."""
        return f"{self.root}.actor.{escape(node)}.{operation}"

    def every_node(self, operation: str) -> str:
        """The subject filter of an operation of all node processes."""
        return f"{self.root}.actor.*.{operation}"
