"""What is known of one request to the gateway while it is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.types import Scope

from suite.errors import SuiteError
from suite.gateway.loading import Loading

_KEY: Final = "suite.context"


class Context:
    """One request: who sent it, and what its answer's headers and the metrics tell of it."""

    def __init__(self, request_id: str, *, began: float) -> None:
        """``began`` is the time of the clock when its head was read."""
        self.request_id = request_id
        self.began = began
        self.requester: str | None = None
        """The id of the key that it was sent with; None: keys are off."""
        self.model: str | None = None
        """The model that it is for, as the request names it."""
        self.session: str | None = None
        """What the client calls the conversation or the user; None: nothing."""
        self.node: str | None = None
        """The node that answers it, once that is known."""
        self.loading: Loading | None = None
        """How far the model is that it waits for."""
        self.status: int | None = None
        """The status of its answer, once that begins."""
        self.error: SuiteError | None = None
        """The error that it was answered with."""
        self.is_stream = False
        """Whether its answer may begin before the service has said anything."""
        self.is_heard = False
        """Whether the service has said anything to it, if only that it works on it."""
        self.on_heard: Callable[[], object] = lambda: None
        """Called once, when the service first says something."""
        self.first_byte_seconds: float | None = None
        """How long its answer took to begin."""

    def note_session(self, *names: str | None) -> None:
        """Note how the client calls the conversation or the user: the first name that there is."""
        self.session = next((each for each in (self.session, *names) if each), None)

    def hear(self) -> None:
        """Note that the service has said something."""
        if not self.is_heard:
            self.is_heard = True
            self.on_heard()

    def begin_answer(self, status: int, now: float) -> None:
        """Note that the answer begins."""
        self.status, self.first_byte_seconds = status, now - self.began


def put_context(scope: Scope, context: Context) -> None:
    """Keep the context of a request in its scope."""
    scope[_KEY] = context


def context_of(scope: Scope) -> Context:
    """The context of the request of this scope."""
    context: Context = scope[_KEY]
    return context
