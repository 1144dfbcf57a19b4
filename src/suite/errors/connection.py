"""NATS cannot be reached, does not answer, or refuses the credentials."""

from __future__ import annotations

from suite.errors.base import SuiteError


class Unavailable(SuiteError):
    """NATS cannot be reached: check the address and that the server runs, then try again."""

    code = "unavailable"
    status = 503


class AccessDenied(SuiteError):
    """NATS refused the credentials: check user and password, or connection.json."""

    code = "access_denied"
    status = 403


class CredentialsRefused(AccessDenied, Unavailable):
    """NATS refuses the credentials since the connection was lost, and is asked again and again.

    A client gets it as AccessDenied. For what waits until NATS is back, it is one more way to be unavailable.
    """


class UserExists(SuiteError):
    """There is a user of this name already: choose another name."""

    code = "user_exists"
    status = 409


class UserNotFound(SuiteError):
    """There is no user of this name: `suite credentials` lists those there are."""

    code = "user_not_found"
    status = 404


class UsersElsewhere(SuiteError):
    """The service uses a NATS server of your own, which has its own users: see docs/security.md."""

    code = "users_elsewhere"
    status = 409


class RequestTimeout(SuiteError):
    """No answer within the time allowed: allow more, or look at the service's health."""

    code = "timeout"
    status = 504


class NoService(SuiteError):
    """Nobody serves this subject: start the service with `suite serve`."""

    code = "no_service"
    status = 503


class TooLarge(SuiteError):
    """The message is over the server's max_payload: send less."""

    code = "too_large"
    status = 413
