"""The generations that the processes of this node's models have: where they are, and how they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from suite import telemetry
from suite.errors import SuiteError
from suite.node.instance import Instance, Lease

Terminate: TypeAlias = Callable[[Lease, SuiteError], Awaitable[None]]
"""Sends a generation's requester its terminal message, an error."""


class Leases:
    """The leases of all instances: each keeps its instance in memory while its generation runs."""

    def __init__(
        self, instances: Mapping[str, Instance], terminate: Terminate, touch: Callable[[Instance], None]
    ) -> None:
        """`touch` is called with an instance that has one lease less."""
        self._instances = instances
        self._terminate = terminate
        self._touch = touch
        self.on_end: Callable[[str], None] = lambda _: None
        """Called with the id of a generation that a process has no more."""
        self.on_answered: Callable[[str], None] = lambda _: None
        """Called with the id of a generation that an actor had, once its requester has the last message."""

    @property
    def running(self) -> int:
        """How many generations the actors have."""
        return sum(instance.running for instance in self._instances.values())

    def find(self, generation_id: str) -> Instance | None:
        """The instance that has a generation; None if there is none."""
        for instance in self._instances.values():
            if generation_id in instance.leases:
                return instance
        return None

    def release(self, instance: Instance, generation_id: str) -> None:
        """Release the lease of a generation that has ended."""
        if instance.leases.pop(generation_id, None) is not None:
            self.on_end(generation_id)
            self._touch(instance)
            instance.changed()

    def finish(self, instance: Instance, generation_id: str) -> None:
        """Release the lease of a generation whose requester has its last message from the actor."""
        self.release(instance, generation_id)
        self.on_answered(generation_id)

    async def terminate(self, instance: Instance, error: SuiteError) -> None:
        """Send the terminal message of each generation that the actor had accepted and can no longer end."""
        while instance.leases:
            generation_id, lease = instance.leases.popitem()
            self.on_end(generation_id)
            if lease.accepted:
                await self._say_last_word(lease, error)
                self.on_answered(generation_id)

    async def _say_last_word(self, lease: Lease, error: SuiteError) -> None:
        """Send the terminal message. The spans of the process are lost with it: this one has the error."""
        headers = {} if lease.traceparent is None else {"traceparent": lease.traceparent}
        reply = telemetry.sending("reply", "_INBOX", attributes={"messaging.destination.temporary": True})
        with telemetry.continuing(headers), reply:
            telemetry.fail(error)
            await self._terminate(lease, error)
