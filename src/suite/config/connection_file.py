"""``connection.json``: what a node leaves in its data directory for those who want to reach it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from suite.messages.actor import NatsAccess


class ReaderCredentials(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who reads the log, on a server where that is another user than the one who sends actions."""

    user: str | None = None
    password: str | None = None
    inbox_prefix: str = "_INBOX"


class ConnectionFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``connection.json``: how to reach a node, in its data directory, readable by its owner only."""

    url: str
    user: str | None = None
    password: str | None = None
    inbox_prefix: str = "_INBOX"
    reader: ReaderCredentials | None = None
    """None: the log is read as the same user."""
    subject_root: str = "suite"
    node: str
    pid: int

    @staticmethod
    def path(data_dir: Path) -> Path:
        """Where the file lies."""
        return data_dir / "connection.json"

    @classmethod
    def read(cls, data_dir: Path) -> ConnectionFile:
        """The file of a node. Raises FileNotFoundError when none serves from there."""
        return msgspec.json.decode(cls.path(data_dir).read_bytes(), type=cls)

    def write(self, data_dir: Path) -> None:
        """Put the file in place at once and whole."""
        path = self.path(data_dir)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self)))
        new.replace(path)

    @property
    def access(self) -> NatsAccess:
        """What a connection needs to know."""
        return NatsAccess(
            url=self.url, user=self.user, password=self.password, inbox_prefix=self.inbox_prefix
        )

    @property
    def reader_access(self) -> NatsAccess | None:
        """What a connection that reads the log needs to know, where that is another one."""
        if self.reader is None:
            return None
        return NatsAccess(
            url=self.url,
            user=self.reader.user,
            password=self.reader.password,
            inbox_prefix=self.reader.inbox_prefix,
        )
