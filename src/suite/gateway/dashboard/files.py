"""The files of the page, as browsers get them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

PAGE: Final = "index.html"

_MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Scripts and styles come from here only, the page asks nobody else, and no text ever becomes markup."""
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "cache-control": "no-cache",  # a browser asks whether its copy is still right
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class StaticFile(NamedTuple):
    """One file."""

    body: bytes
    media_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        """The file, or that the browser's copy is still right."""
        headers = {**_HEADERS, "etag": self.etag}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=self.media_type, headers=headers)


def static_files() -> Mapping[str, StaticFile]:
    """All files of the page by their path, read once."""
    return dict(_read(files("suite.gateway.dashboard") / "static", ""))


def _read(folder: Traversable, path: str) -> Iterator[tuple[str, StaticFile]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _read(each, f"{path}{each.name}/")
        elif (media_type := _MEDIA_TYPES.get(each.name.rpartition(".")[2])) is not None:
            body = each.read_bytes()
            yield path + each.name, StaticFile(body, media_type, f'"{sha256(body).hexdigest()[:32]}"')
