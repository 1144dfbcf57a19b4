"""The parts that all dialects use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import msgspec
from starlette.requests import Request

from suite.circuit_breaker import CircuitBreaker
from suite.client import Client
from suite.errors import ModelNotFound, SuiteError
from suite.gateway.access import Access
from suite.gateway.context import context_of
from suite.gateway.dashboard.live import Live
from suite.gateway.digests import Digests
from suite.gateway.errors import invalid
from suite.gateway.generations import Generations, while_connected
from suite.gateway.loading import loaded_within
from suite.gateway.metrics import Metrics
from suite.gateway.privileges import privilege_of
from suite.gateway.work import Work
from suite.identity import Clock, NewId, Now
from suite.messages.actions.base import Adapters
from suite.messages.actions.status import ModelInfo
from suite.telemetry.exposition import Exposition


class ForModel(Protocol):
    """A request that names a model."""

    @property
    def model(self) -> str:
        """Its id, or one of its aliases."""


@runtime_checkable
class WithWishes(Protocol):
    """A request that may ask for what needs rights."""

    @property
    def wishes(self) -> Mapping[str, object]:
        """The fields for the service that may need rights."""


@runtime_checkable
class WithAdapters(Protocol):
    """A request that may name adapters."""

    @property
    def adapters(self) -> Adapters | None:
        """The adapters that the model is to be computed with."""


T = TypeVar("T")
M = TypeVar("M", bound=ForModel)


class Gateway:
    """What the operations of every dialect get."""

    def __init__(
        self,
        client: Client,
        access: Access,
        breaker: CircuitBreaker,
        *,
        exposition: Exposition,
        load_seconds: float,
        new_id: NewId,
        now: Now,
        clock: Clock,
    ) -> None:
        """``breaker`` is the one around the service.

        ``load_seconds`` is how long a request waits for a model that is not loaded.
        """
        self.client = client
        self.access = access
        self.breaker = breaker
        self.metrics = Metrics(exposition, breaker)
        self.digests = Digests(client, clock)
        self.live = Live(client, now=now, clock=clock)
        self.work = Work()
        self.generations = Generations(
            client, self.metrics, self.work, load_seconds=load_seconds, clock=clock
        )
        self.new_id, self.now, self.clock = new_id, now, clock
        self._load_seconds = load_seconds

    async def read(self, request: Request, decode: Callable[[bytes], M]) -> M:
        """Read the body of a request for a model, and check that its sender may ask for that.

        Where keys are on, the request then names the model by its id. Raises InvalidJson, InvalidRequest,
        TooLarge, ModelNotFound, KeyNotPermitted.
        """
        body = await request.body()
        try:
            asked = decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise invalid(body, error) from None
        context = context_of(request.scope)
        model_id = await self.resolve(context.requester, asked.model)
        if model_id != asked.model:
            asked = msgspec.structs.replace(asked, model=model_id)  # type: ignore[type-var]
        context.model = model_id
        self._check_wishes(context.requester, asked)
        self._check_adapters(context.requester, asked)
        return asked

    def _check_adapters(self, requester: str | None, asked: ForModel) -> None:
        """A key may use the adapters that it may use as models. Raises KeyNotPermitted."""
        if requester is None or not isinstance(asked, WithAdapters) or not asked.adapters:
            return
        for each in (asked.adapters,) if isinstance(asked.adapters, str) else asked.adapters:
            self.access.check_model(requester, each if isinstance(each, str) else each.id)

    def _check_wishes(self, requester: str | None, asked: ForModel) -> None:
        if requester is None or not isinstance(asked, WithWishes):
            return
        if (wish := privilege_of(asked.wishes)) is not None:
            self.access.check_admin(requester, wish)

    async def resolve(self, requester: str | None, name: str) -> str:
        """What the service is asked for when a requester asks for a model: its id, or what the service says.

        A requester learns nothing about models that it may not use: an alias of one of them means nothing.
        Raises ModelNotFound, KeyNotPermitted.
        """
        if requester is None:
            return name
        try:
            named = await self.digests.named(name)
        except SuiteError:
            self.access.check_model(requester, name)
            raise
        if named is None or not self.access.shows(requester, named.model_id):
            self.access.check_model(requester, name)
            raise ModelNotFound(f"no model {name[:255]!r}: GET /v1/models lists those that this key may use")
        return named.asked

    async def models(self, requester: str | None) -> list[ModelInfo]:
        """The models that a requester may know of."""
        infos = (await self.client.list_models()).models
        return [each for each in infos if self.access.shows(requester, each.model_id)]

    async def patiently(
        self, request: Request, model: str, load_wait_ms: int | None, work: Callable[[int], Awaitable[T]]
    ) -> T:
        """Do work with a model that may have to be loaded first, as long as the request's client waits.

        ``work`` gets how long the model may wait for memory: ``load_wait_ms``, if that was given and is not
        longer than any request waits. Raises Cancelled, ModelLoading when it is not loaded in time, and why
        it was ended if the requester may have nothing any more.
        """
        most = self._load_seconds
        seconds = most if load_wait_ms is None else min(most, load_wait_ms / 1000)
        with self.work.of(context_of(request.scope).requester):
            return await while_connected(
                request, partial(loaded_within, seconds, self.client, model, work, self.clock)
            )
