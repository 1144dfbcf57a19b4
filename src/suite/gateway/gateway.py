"""The parts that all dialects use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request

from suite.client import Client
from suite.gateway.access import Access
from suite.gateway.context import context_of
from suite.gateway.errors import invalid
from suite.gateway.generations import Generations
from suite.identity import Clock, NewId, Now

T = TypeVar("T", bound=msgspec.Struct)


class Gateway:
    """What the endpoints of every dialect get."""

    def __init__(
        self,
        client: Client,
        access: Access,
        *,
        load_seconds: float,
        new_id: NewId,
        now: Now,
        clock: Clock,
    ) -> None:
        """``load_seconds`` is how long a request waits for a model that is not loaded."""
        self.client = client
        self.access = access
        self.generations = Generations(client, load_seconds=load_seconds, clock=clock)
        self.new_id, self.now, self.clock = new_id, now, clock

    async def read(self, request: Request, decode: Callable[[bytes], T], *, model: Callable[[T], str]) -> T:
        """Read the body of a request for a model, and check that its sender may use that.

        Raises InvalidJson, InvalidRequest, TooLarge, or the refusal of the model.
        """
        try:
            asked = decode(await request.body())
        except msgspec.MsgspecError as error:
            raise invalid(error) from None
        self.access.check_model(context_of(request.scope).requester, model(asked))
        return asked
