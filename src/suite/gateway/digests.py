"""Which ids the models have, and the digests of their files, for rights and for the headers of answers."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final, NamedTuple

import anyio

from suite.client import Client
from suite.errors import ModelNotFound, SuiteError
from suite.identity import Clock

logger = logging.getLogger("suite.gateway")

FRESH_SECONDS: Final = 10.0
"""How old what is known may be before it is asked for again."""


class Named(NamedTuple):
    """What a name in a request means."""

    model_id: str
    asked: str
    """What the service is to be asked for: the id, or the name if it may mean another model the next time, as
    an alias does to which a version is being promoted."""


class Digests:
    """Knows the id and the digest of each model. It asks the service only while someone wants to know."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._known: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        """By the ids themselves, and by the aliases that only one model has."""
        self._told: float | None = None
        """When the service told what is known."""
        self._asked: float | None = None
        self._wanted = anyio.Event()

    def of(self, model: str) -> str | None:
        """The SHA-256 of a model's file; None: it is not known, or not yet. No answer waits for it."""
        if self._asked is None or self._clock() - self._asked > FRESH_SECONDS:
            self._wanted.set()
        return self._known.get(model)

    async def named(self, name: str) -> Named | None:
        """The model that a name means; None: there is none. Raises the service's errors."""
        if name in self._ids and self._told is not None and self._clock() - self._told < FRESH_SECONDS:
            return Named(self._ids[name], self._ids[name])
        self._wanted.set()
        try:
            model = (await self._client.get_model_status(name)).model
        except ModelNotFound:
            return None
        if model is None:
            return None
        is_fixed = name in (model.model_id, *model.aliases) and name not in model.log_aliases
        return Named(model.model_id, model.model_id if is_fixed else name)

    async def run(self) -> None:
        """Ask whenever what is known is too old for an answer."""
        while True:
            self._asked = self._clock()
            try:
                await self._ask()
            except SuiteError as error:
                logger.debug("the digests of the models are not known: %s", error.message)
            self._wanted = anyio.Event()
            await self._wanted.wait()

    async def _ask(self) -> None:
        began = self._clock()
        infos = (await self._client.list_models()).models
        aliases = {info.model_id: set(info.aliases) - set(info.log_aliases) for info in infos}
        claims = Counter(alias for each in aliases.values() for alias in each)
        ids: dict[str, str] = {}
        digests: dict[str, str] = {}
        for info in infos:
            names = (*(each for each in aliases[info.model_id] if claims[each] == 1), info.model_id)
            ids |= dict.fromkeys(names, info.model_id)
            digest = info.sha256 if info.instance is None else info.instance.sha256 or info.sha256
            if digest is not None:
                digests |= dict.fromkeys(names, digest)
        self._ids = ids | {info.model_id: info.model_id for info in infos}
        self._known, self._told = digests, began
