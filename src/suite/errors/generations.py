"""A generation cannot begin, or go on."""

from __future__ import annotations

from suite.errors.base import RETRY_AFTER_MS, SuiteError


class Overloaded(SuiteError):
    """The queue is full: try again later."""

    code = "overloaded"
    status = 429

    def __init__(self, message: str | None = None, *, retry_after_ms: int = RETRY_AFTER_MS) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        """When there is likely to be room again."""


class GenerationNotFound(SuiteError):
    """No generation with this id is running: it has ended, or it never began."""

    code = "generation_not_found"
    status = 404


class GenerationExists(SuiteError):
    """A generation with this id is running already: choose another id."""

    code = "generation_exists"
    status = 409


class Cancelled(SuiteError):
    """The generation was cancelled before it had begun."""

    code = "cancelled"
    status = 499


class GenerationFailed(SuiteError):
    """llama.cpp could not go on with this generation."""

    code = "generation_failed"


class ActorCrashed(SuiteError):
    """The process that ran the model died: send the request again, which loads the model again."""

    code = "actor_crashed"
    status = 502
