"""A node's ``connection.json``, by which clients on its machine find it while it serves."""

from __future__ import annotations

import os

from suite.bus.embedded import EmbeddedServer
from suite.config import ConnectionFile, ReaderCredentials, Settings


class Address:
    """How clients reach this node: the address, and on the node's own server also who they are."""

    def __init__(self, settings: Settings, server: EmbeddedServer | None) -> None:
        self._settings = settings
        self._server = server
        self._is_published = False
        self._http: str | None = None

    def publish(self, *, http: str | None = None) -> None:
        """Write the file. ``http`` is the URL of the node's gateway, if it has one. Raises OSError."""
        self._is_published, self._http = True, http
        self._content().write(self._settings.data_dir)

    def refresh(self) -> None:
        """Write it again if it is there, because the credentials in it have changed. Raises OSError."""
        if self._is_published:
            self._content().write(self._settings.data_dir)

    def withdraw(self) -> None:
        """Remove it: this node serves no longer, or the one that wrote it was killed."""
        self._is_published = False
        ConnectionFile.path(self._settings.data_dir).unlink(missing_ok=True)

    def _content(self) -> ConnectionFile:
        root, node, pid = self._settings.subject_root, self._settings.node, os.getpid()
        if self._server is None:
            # What the node connects with is its own: on this server clients are users of their own.
            url, ca = self._settings.nats.url or "", self._settings.nats.ca
            return ConnectionFile(
                url=url,
                ca=None if ca is None else str(ca.absolute()),
                subject_root=root,
                http=self._http,
                node=node,
                pid=pid,
            )
        operator, consumer = self._server.operator, self._server.consumer
        return ConnectionFile(
            url=operator.url,
            user=operator.user,
            password=operator.password,
            ca=operator.ca_file,
            inbox_prefix=operator.inbox_prefix,
            reader=ReaderCredentials(user=consumer.user, password=consumer.password),
            subject_root=root,
            http=self._http,
            node=node,
            pid=pid,
        )
