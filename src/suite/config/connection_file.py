"""``connection.json``: the file in a node's data directory that tells clients how to connect."""

from __future__ import annotations

from pathlib import Path

import msgspec

from suite.data_directory import write_private
from suite.messages.actor import NatsAccess


class ReaderCredentials(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who reads the log, on a server where that is another user than the one who sends actions."""

    user: str | None = None
    password: str | None = None
    inbox_prefix: str = "_INBOX"


class ConnectionFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The contents of ``connection.json``: how to connect to a node. Only its owner can read the file."""

    url: str
    user: str | None = None
    password: str | None = None
    ca: str | None = None
    """The file of the certificate authority of the server; None: those that this machine trusts."""
    inbox_prefix: str = "_INBOX"
    reader: ReaderCredentials | None = None
    """None: the log is read as the same user."""
    subject_root: str = "suite"
    http: str | None = None
    """The URL of the node's gateway; None: it has none."""
    node: str
    pid: int

    @staticmethod
    def path(data_dir: Path) -> Path:
        """The path of the file."""
        return data_dir / "connection.json"

    @classmethod
    def read(cls, data_dir: Path) -> ConnectionFile:
        """Read a node's file. Raises FileNotFoundError when no node serves from the directory."""
        return msgspec.json.decode(cls.path(data_dir).read_bytes(), type=cls)

    def write(self, data_dir: Path) -> None:
        """Write the file atomically. Raises OSError."""
        write_private(self.path(data_dir), msgspec.json.format(msgspec.json.encode(self)))

    @property
    def access(self) -> NatsAccess:
        """The address and credentials for a connection."""
        return NatsAccess(
            url=self.url,
            user=self.user,
            password=self.password,
            ca_file=self.ca,
            inbox_prefix=self.inbox_prefix,
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
            ca_file=self.ca,
            inbox_prefix=self.reader.inbox_prefix,
        )
