"""The values of one NATS key-value bucket (NATS ADR-8): what leases and claims are made of."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from suite.bus.connection import Connection
from suite.bus.jetstream import EXPECTED_SEQ, NO_MESSAGE, Refused
from suite.errors import Unavailable
from suite.messages.subjects import escape


class Last(NamedTuple):
    """The newest message of a name."""

    seq: int
    value: bytes
    is_removed: bool
    """Whether it says that a value was deleted or has expired."""


class KeyValues:
    """One bucket, through one connection. All methods raise Unavailable, RequestTimeout or NoService."""

    def __init__(self, connection: Connection, bucket: str, *, timeout: float) -> None:
        """`timeout`: how long the server may take for an answer, in seconds."""
        self._connection = connection
        self._timeout = timeout
        self.stream = f"KV_{bucket}"
        self.prefix = f"$KV.{bucket}."
        """What the subjects of all values begin with."""

    async def put(
        self, name: str, value: bytes, *, headers: Mapping[str, str] | None = None, after: int | None = None
    ) -> int:
        """Set a value. `after`: only if the last message of the name has this sequence; 0 if it has none.

        Returns the sequence of the new one. Raises Refused if the server does not store it.
        """
        given = dict(headers or {})
        if after is not None:
            given[EXPECTED_SEQ] = str(after)
        subject = f"{self.prefix}{escape(name)}"
        answer = await self._connection.request(subject, value, headers=given, timeout=self._timeout)
        reply: dict[str, Any] = msgspec.json.decode(answer.data)
        if (error := reply.get("error")) is not None:
            raise refusal(error)
        return int(reply["seq"])

    async def last(self, name: str) -> Last | None:
        """The newest message of a name; None if there is none."""
        asked = {"last_by_subj": f"{self.prefix}{escape(name)}"}
        answer = await self.api(f"STREAM.MSG.GET.{self.stream}", asked)
        if (message := answer.get("message")) is not None:
            headers = base64.b64decode(message.get("hdrs", ""))
            is_removed = b"KV-Operation:" in headers or b"Nats-Marker-Reason:" in headers
            return Last(message["seq"], base64.b64decode(message.get("data", "")), is_removed)
        if answer.get("error", {}).get("err_code") != NO_MESSAGE:
            raise Unavailable(f"{name} cannot be read in {self.stream}: {answer.get('error')}")
        return None

    async def api(self, subject: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """What JetStream's API says to a request, an error too."""
        data = b"" if body is None else msgspec.json.encode(body)
        answer = await self._connection.request(f"$JS.API.{subject}", data, timeout=self._timeout)
        reply: dict[str, Any] = msgspec.json.decode(answer.data)
        return reply


def refusal(error: Mapping[str, Any]) -> Refused:
    """The error that the server's API tells."""
    return Refused(error.get("err_code", 0), error.get("description", str(dict(error))))
