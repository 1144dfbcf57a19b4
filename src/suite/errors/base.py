"""What all errors have: a code, a message that says what to do, a status."""

from __future__ import annotations

from copy import copy
from typing import ClassVar, Self

RETRY_AFTER_MS = 1000
"""When to try again if the time until that succeeds is unknown."""
MESSAGE_CHARACTERS = 4096
"""How much of a message is kept. It may repeat what a client sent, which may have a megabyte; and a reply
that is larger than a message of NATS may be would never arrive."""


def shortened(text: str, most: int) -> str:
    """The text in `most` characters, without its middle if it has more: what to do stands at its end."""
    if len(text) <= most:
        return text
    gap, end = " ... ", most // 4
    return f"{text[: most - end - len(gap)]}{gap}{text[-end:]}"


class SuiteError(Exception):
    """The root: something was refused or failed, and the message says what to do about it."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    """The HTTP status code for the error, sent as ``Nats-Service-Error-Code``."""

    def __init__(self, message: str | None = None, **details: str | int | float) -> None:
        super().__init__(shortened(message or (type(self).__doc__ or self.code).strip(), MESSAGE_CHARACTERS))
        self.details = details
        """Additional fields of the error reply, such as ``event_id``."""
        self.node = ""
        """The node that refused; empty if it is this process, or not known."""

    @property
    def message(self) -> str:
        """What happened and what to do."""
        return str(self.args[0])

    def copy(self) -> Self:
        """One that says the same. Of an error that is kept, raise copies: it would gather tracebacks."""
        return copy(self)
