"""A server on loopback that speaks as much of the Hugging Face Hub's API as a download needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef" * 2 + "01234567"

_INFO = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?")
_RESOLVE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_CONTENT = re.compile(r"/content/(?P<sha256>[0-9a-f]{64})")


class Asked(NamedTuple):
    """A request for content."""

    path: str
    range: str | None
    authorization: str | None


class Hub:
    """What the server has, how it misbehaves, and what it was asked for."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.cut_at: int | None = None
        """End the connection once, after so many bytes of content."""
        self.stall_at: int | None = None
        """Send nothing more after so many bytes of content."""
        self.ended = threading.Event()
        self.ignores_ranges = False
        self.spoiled = False
        """Send other content than that of the digests."""
        self.elsewhere = False
        """Send clients to another host for the content, as the hub does."""
        self.status = 0
        """Answer everything with this."""
        self.asked: list[Asked] = []

    def files(self, name: str, files: dict[str, bytes]) -> None:
        """Have a repository with these files."""
        self.repositories[name] = files

    def content(self, sha256: str) -> bytes:
        """The content of a digest, or its spoiled form."""
        for files in self.repositories.values():
            for content in files.values():
                if hashlib.sha256(content).hexdigest() == sha256:
                    return content[:-1] + bytes([content[-1] ^ 1]) if self.spoiled else content
        raise AssertionError(sha256)


@contextmanager
def serving_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.ended.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.status:
            self._refuse(self.hub.status)
        elif match := _INFO.fullmatch(path):
            self._info(match["name"], match["revision"])
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match["name"], match["path"])
        elif match := _CONTENT.fullmatch(path):
            self._send_content(match["sha256"])
        else:
            self._refuse(404)

    def _refuse(self, status: int, code: str | None = None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _info(self, name: str, revision: str | None) -> None:
        files = self.hub.repositories.get(name)
        if files is None or (name in self.hub.private and self.headers["Authorization"] is None):
            self._refuse(401 if name in self.hub.private else 404, "RepoNotFound")
        elif revision not in (None, "main", REVISION):
            self._refuse(404, "RevisionNotFound")
        else:
            self._send_json(
                {"id": name, "sha": REVISION, "siblings": [_sibling(*item) for item in files.items()]}
            )

    def _send_json(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _resolve(self, name: str, path: str) -> None:
        if name in self.hub.gated:
            self._refuse(403, "GatedRepo")
            return
        sha256 = hashlib.sha256(self.hub.repositories[name][path]).hexdigest()
        if self.hub.elsewhere:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{urlsplit(self.hub.url).port}/content/{sha256}")
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("X-Linked-ETag", f'"{sha256}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send_content(sha256)

    def _send_content(self, sha256: str) -> None:
        content = self.hub.content(sha256)
        asked = self.headers["Range"]
        self.hub.asked.append(Asked(self.path, asked, self.headers["Authorization"]))
        start = 0
        if asked is not None and not self.hub.ignores_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{sha256}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        until, self.hub.cut_at = self.hub.cut_at or len(content), None
        if self.hub.stall_at is not None:
            self.wfile.write(content[start : self.hub.stall_at])
            self.hub.ended.wait()
            return
        self.wfile.write(content[start:until])
        self.close_connection = True


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    size = len(content)
    lfs = {"size": size, "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
    return {"rfilename": path, "size": size, "blobId": "0" * 40, "lfs": lfs}
