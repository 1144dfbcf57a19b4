"""Judges a service that rests after a fault: its log, its read models, its state, and what is left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio

from suite.domain.footprint import Footprint
from suite.domain.residency import Residency, evolve
from suite.errors import SuiteError
from suite.messages.envelope import Recorded
from support.durability.findings import Finding
from support.durability.health import sample
from support.durability.history import History
from support.durability.judging_log import judged_log
from support.durability.judging_read_models import judged_read_models
from support.durability.leftovers import Rest, leftovers
from support.durability.system import CLIENT_SECONDS, MODELS, System
from support.service import facts
from support.service import history as whole_log

PATIENCE_SECONDS: Final = 40.0
"""For what can only be true a moment later: read models that catch up, processes that end."""


class Checker:
    """Judges one system again and again, by all that its clients were ever told."""

    def __init__(self, system: System, history: History) -> None:
        self._system = system
        self._history = history
        self._before: Rest | None = None
        self._judged = 0
        """The last event of the log when it was judged last."""

    def settle(self, before: Rest) -> None:
        """From now on, nothing may be left over beside what was there then."""
        self._before = before

    async def findings(
        self, *, kept: str = "", fact: str = "", patience: float = PATIENCE_SECONDS
    ) -> list[Finding]:
        """What is wrong, when time enough has passed for it to come right by itself.

        `kept`: a pattern of the files that were set aside on purpose. `fact`: what the log must say of what
        has happened since it was judged last.
        """
        until, after = anyio.current_time() + patience, self._judged
        while (found := await self._look(kept, fact, after)) and anyio.current_time() < until:
            await anyio.sleep(0.2)
        return found

    async def _look(self, kept: str, fact: str, after: int) -> list[Finding]:
        try:
            await unload_all(self._system)
            events = await whole_log(self._system.client)
        except SuiteError as error:
            return [Finding("recovery", f"{error.code}: {error.message}")]
        self._judged = events[-1].seq if events else 0
        found = judged_log(self._history, events)
        if fact and fact not in facts(event for event in events if event.seq > after):
            found.append(Finding("health", f"the log says nothing of {fact}"))
        found += await judged_read_models(self._system.data_dir, events)
        found += await self._state(events)
        if self._before is not None:
            found += await leftovers(self._system, self._before, kept=kept)
        return found

    async def _state(self, events: Sequence[Recorded]) -> list[Finding]:
        """Whether the service says of itself what its log says, and that it is well."""
        found = []
        state = Residency(limit_bytes=Footprint(2**40))
        for event in events:
            state = evolve(state, event.data)
        if state.residents:
            found.append(Finding("state", f"by the log {', '.join(state.residents)} are loaded"))
        said = await sample(self._system)
        if said.status != "HEALTHY":
            found.append(Finding("health", f"{said.status}: {'; '.join(said.problems)}"))
        return found


async def unload_all(system: System) -> None:
    """Have no model loaded, and no conversation kept. Raises SuiteError."""
    for model_id in MODELS:
        await system.client.unload_model(model_id, drain_ms=int(CLIENT_SECONDS * 1000))
    await system.client.clear_kv_cache()
