"""The parts that all dialects use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request

from suite.client import Client
from suite.gateway.access import Access
from suite.gateway.context import context_of
from suite.gateway.digests import Digests
from suite.gateway.errors import invalid
from suite.gateway.generations import Generations, while_connected
from suite.gateway.loading import loaded_within
from suite.gateway.metrics import Metrics
from suite.identity import Clock, NewId, Now


class ForModel(Protocol):
    """A request that names a model."""

    @property
    def model(self) -> str:
        """Its id, or one of its aliases."""


T = TypeVar("T")
M = TypeVar("M", bound=ForModel)


class Gateway:
    """What the operations of every dialect get."""

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
        self.metrics = Metrics()
        self.digests = Digests(client, clock)
        self.generations = Generations(client, self.metrics, load_seconds=load_seconds, clock=clock)
        self.new_id, self.now, self.clock = new_id, now, clock
        self._load_seconds = load_seconds

    async def read(self, request: Request, decode: Callable[[bytes], M]) -> M:
        """Read the body of a request for a model, and check that its sender may use that.

        Raises InvalidJson, InvalidRequest, TooLarge, or the refusal of the model.
        """
        body = await request.body()
        try:
            asked = decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise invalid(body, error) from None
        context = context_of(request.scope)
        context.model = asked.model
        self.access.check_model(context.requester, asked.model)
        return asked

    async def patiently(
        self, request: Request, model: str, load_wait_ms: int | None, work: Callable[[int], Awaitable[T]]
    ) -> T:
        """Do work with a model that may have to be loaded first, as long as the request's client waits.

        ``work`` gets how long the model may wait for memory: ``load_wait_ms``, if that was given. Raises
        Cancelled, and ModelLoading when the model is not loaded in time.
        """
        seconds = self._load_seconds if load_wait_ms is None else load_wait_ms / 1000
        return await while_connected(
            request, partial(loaded_within, seconds, self.client, model, work, self.clock)
        )
