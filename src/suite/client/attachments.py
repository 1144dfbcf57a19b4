"""Sends the pictures of a request that is larger than a message: whoever reads them asks for each part."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import Any, NamedTuple

import anyio
import msgspec

from suite.bus.connection import Connection, Message
from suite.client.asking import encoded
from suite.errors import SuiteError
from suite.messages.actions.chat import DATA_URL, without_head
from suite.messages.attachments import AskForPart

_decode = msgspec.json.Decoder(AskForPart).decode


class Split(NamedTuple):
    """A request without its pictures, and their files by the digests that it has in their place."""

    body: Mapping[str, object]
    files: Mapping[str, bytes]


def without_pictures(body: Mapping[str, object]) -> Split | None:
    """The fields of a GenerateTextRequest without its pictures; None if it has none.

    Its messages may be JSON already. Blocks: for half a second where they have 20 MB.
    """
    files: dict[str, bytes] = {}
    messages = msgspec.json.decode(encoded({"messages": body.get("messages")}))["messages"]
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            message["content"] = [_part(part, files) for part in content]
    return Split({**body, "messages": messages}, files) if files else None


@asynccontextmanager
async def sending_files(connection: Connection, files: Mapping[str, bytes]) -> AsyncIterator[str]:
    """Send parts of these files to whoever asks for them during the block, in the inbox that it gets."""

    async def send(message: Message) -> None:
        with suppress(SuiteError, msgspec.MsgspecError):  # whoever asks gives up, and says so
            ask = _decode(message.data)
            part = files.get(ask.attached, b"")[ask.offset : ask.offset + ask.length]
            await connection.publish(ask.answer, part)

    inbox = connection.new_inbox()
    subscription = await connection.listen(inbox, send)
    try:
        yield inbox
    finally:
        with anyio.CancelScope(shield=True):
            await subscription.unsubscribe()


def _part(part: Any, files: dict[str, bytes]) -> Any:
    file = _file(part) if isinstance(part, dict) else None
    if file is None:
        return part
    digest = sha256(file).hexdigest()
    files[digest] = file
    return {"type": "image", "attached": digest}


def _file(part: dict[str, Any]) -> bytes | None:
    """The file of a part that is a picture in base64."""
    url = part.get("image_url")
    if isinstance(url, dict):
        url = url.get("url")
    if part.get("type") == "image_url" and isinstance(url, str) and DATA_URL.match(url):
        data: Any = url
    else:
        data = part.get("data") if part.get("type") == "image" else None
    if not isinstance(data, str):
        return None
    with suppress(binascii.Error, ValueError):
        return base64.b64decode("".join(without_head(data).split()), validate=True)
    return None
