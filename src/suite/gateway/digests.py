"""The digests of the models' files, for the headers of answers. An answer never waits for them."""

from __future__ import annotations

import logging
from typing import Final

import anyio

from suite.client import Client
from suite.errors import SuiteError
from suite.identity import Clock

logger = logging.getLogger("suite.gateway")

FRESH_SECONDS: Final = 10.0
"""How old what is known may be before it is asked for again."""


class Digests:
    """Knows the digest of each model by its ids. It asks the service only while answers want to know."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._known: dict[str, str] = {}
        self._asked: float | None = None
        self._wanted = anyio.Event()

    def of(self, model: str) -> str | None:
        """The SHA-256 of a model's file; None: it is not known, or not yet."""
        if self._asked is None or self._clock() - self._asked > FRESH_SECONDS:
            self._wanted.set()
        return self._known.get(model)

    async def run(self) -> None:
        """Ask whenever what is known is too old for an answer."""
        while True:
            self._asked = self._clock()
            try:
                self._known = await self._ask()
            except SuiteError as error:
                logger.debug("the digests of the models are not known: %s", error.message)
            self._wanted = anyio.Event()
            await self._wanted.wait()

    async def _ask(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for info in (await self._client.list_models()).models:
            digest = info.sha256 if info.instance is None else info.instance.sha256 or info.sha256
            if digest is not None:
                found |= dict.fromkeys((info.model_id, *info.aliases), digest)
        return found
