"""TLS from the files of a certificate and of its key, taken up again when they change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final, NoReturn

import anyio

from suite.errors import InvalidConfiguration

logger = logging.getLogger("suite.gateway")

LOOK_SECONDS: Final = 10.0
"""How often it is seen to whether the files have changed."""


class Certificate:
    """A certificate with its key, and the context that serves with them."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises InvalidConfiguration for files that cannot be used."""
        self._certificate, self._key = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._loaded = self._state()
        self._load()

    @classmethod
    def of(cls, certificate: Path | None, key: Path | None) -> Certificate | None:
        """The certificate that the settings name; None if they name none. Raises InvalidConfiguration."""
        match certificate, key:
            case None, None:
                return None
            case Path() as certificate, Path() as key:
                return cls(certificate, key)
            case _:
                raise InvalidConfiguration(
                    "TLS needs both --tls-certificate and --tls-key: give the other, too"
                )

    async def watch(self) -> None:
        """Take up new files until cancelled. Those that cannot be used are left alone, with a warning."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Take up the files if they have changed: connections that begin from then on get them."""
        try:
            state = self._state()
            if state != self._loaded:
                self._loaded = state
                Certificate(self._certificate, self._key)  # so that files that do not match change nothing
                self._load()
                logger.info("%s is served from now on", self._certificate)
        except InvalidConfiguration as error:
            logger.warning("the certificate stays the one of before: %s", error.message)

    def _load(self) -> None:
        try:
            self.context.load_cert_chain(self._certificate, self._key, password=_refuse_to_ask)
        except ssl.SSLError as error:
            raise InvalidConfiguration(
                f"the certificate {self._certificate} cannot be used with the key {self._key} "
                f"({_reason(error)}): give a certificate chain and its key as PEM files"
            ) from None
        except OSError as error:  # which of the two it is, is not said
            raise _unreadable(f"{self._certificate} or {self._key}", error) from None

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(_state(path) for path in (self._certificate, self._key))


def _state(path: Path) -> tuple[int, int, int]:
    try:
        with path.open("rb"):  # whether it may be read
            found = path.stat()
    except OSError as error:
        raise _unreadable(str(path), error) from None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _unreadable(what: str, error: OSError) -> InvalidConfiguration:
    return InvalidConfiguration(f"{what} cannot be read ({error.strerror}): TLS needs it")


def _refuse_to_ask() -> NoReturn:
    raise InvalidConfiguration(
        "the key is encrypted: give one without a password, readable by this user alone"
    )


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "they are no PEM files").replace("_", " ").lower()
