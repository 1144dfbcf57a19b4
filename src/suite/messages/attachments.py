"""How a picture travels that is too large for the message of its request: its reader asks for it in parts.

The request has the digest of the picture (``attached``) and a subject of its sender (``attachments``). The
model's process sends an `AskForPart` there for each part, and the sender publishes the bytes of that part, as
they are, on the subject that it names. An empty message says that there is no more. So a picture is in no
store on its way, and is only sent to a model that has not read it lately.
"""

from __future__ import annotations

import msgspec


class AskForPart(msgspec.Struct, frozen=True, kw_only=True):
    """Asks the sender of a request for a part of a picture."""

    attached: str
    """The SHA-256 of the picture's file, in hex."""
    offset: int
    """Where the part begins, in bytes."""
    length: int
    """The most bytes that it may have."""
    answer: str
    """The subject to publish the bytes on."""
