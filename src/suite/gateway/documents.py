"""What the gateway says of itself: a page for people, and an OpenAPI document for programs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from html import escape
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from suite.gateway.encoding import encode
from suite.gateway.openai.chat import PARTS
from suite.gateway.operations import Operation
from suite.version import __version__

_REFERENCE: Final = "#/components/schemas/{name}"

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Model Manager Suite</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ background: #eee; color: #111; padding: 1rem; overflow-x: auto }}
td {{ padding-right: 1.5rem; vertical-align: top }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #ddd }} a {{ color: #8bf }} }}
</style>
<h1>Model Manager Suite {version}</h1>
<p>This is a gateway to local models. It speaks OpenAI's API: give a program the base URL
<code>{url}/v1</code>, and the id of a model from <a href="/v1/models">/v1/models</a>. A model that is not in
memory is loaded by the first request for it, which waits meanwhile.</p>
<pre>curl {url}/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "ID", "messages": [{{"role": "user", "content": "What is a llama?"}}]}}'</pre>
<p>The <a href="/ui">dashboard</a> shows what the models do, and why.</p>
<table>
{rows}
</table>
<p><a href="/openapi.json">/openapi.json</a> has the details of each.</p>
</html>
"""


def with_documents(operations: Sequence[Operation]) -> list[Operation]:
    """The operations, and two that say what all of them are."""
    documents = _Documents()
    documents.operations = [
        *operations,
        Operation(path="/", answer=documents.page, summary="This page.", media_type="text/html"),
        Operation(path="/openapi.json", answer=documents.openapi, summary="All operations, as OpenAPI."),
    ]
    return documents.operations


class _Documents:
    operations: list[Operation]

    async def page(self, request: Request) -> Response:
        """The page for people."""
        rows = "\n".join(
            f"<tr><td><code>{each.method} {escape(_path(each))}</code><td>{escape(each.summary)}"
            for each in self.operations
        )
        url = escape(str(request.base_url).rstrip("/"))
        headers = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(_PAGE.format(version=__version__, url=url, rows=rows), headers=headers)

    async def openapi(self, request: Request) -> Response:
        """The document for programs."""
        del request
        return Response(self._openapi, media_type="application/json")

    @cached_property
    def _openapi(self) -> bytes:  # takes as long as some dozen other requests
        return encode(openapi(self.operations))


def openapi(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these operations."""
    bodies = [kind for each in operations for kind in _bodies(each) if kind is not None]
    kinds: list[type[msgspec.Struct]] = list(dict.fromkeys((*bodies, *PARTS, ErrorBody)))
    references, schemas = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    reference = dict(zip(kinds, references, strict=True))
    paths: dict[str, Any] = {}
    for each in operations:
        paths.setdefault(_path(each), {})[each.method.lower()] = _operation(each, reference)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Model Manager Suite",
            "version": __version__,
            "description": "Local models, as the APIs of OpenAI, Anthropic and Ollama have them. "
            "Of a streamed answer the schema is that of each event or line.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


class ErrorObject(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, and what to do about it."""

    message: str
    type: str
    param: str | None
    """The parameter that it is about."""
    code: str


class LoadingState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the load is that a request has waited for."""

    state: str
    progress: float | None
    """0 to 1."""
    eta_seconds: float | None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a request that is refused or has failed."""

    error: ErrorObject
    loading: LoadingState | None = None


def _bodies(operation: Operation) -> tuple[type[msgspec.Struct] | None, ...]:
    return operation.request, operation.reply, operation.event, operation.error


def _path(operation: Operation) -> str:
    return operation.path.replace(":path}", "}")


def _operation(operation: Operation, reference: dict[type[msgspec.Struct], Any]) -> dict[str, Any]:
    content: dict[str, Any] = {operation.media_type: {}}
    if operation.reply is not None:
        content = {operation.media_type: {"schema": reference[operation.reply]}}
    if operation.event is not None:
        content[operation.stream_type] = {"schema": reference[operation.event]}
    error = {"application/json": {"schema": reference[operation.error or ErrorBody]}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.name,
        "responses": {
            "200": {"description": "The answer.", "content": content},
            "default": {"description": "A refusal or a failure.", "content": error},
        },
    }
    if operation.request is not None:
        body = {"application/json": {"schema": reference[operation.request]}}
        described["requestBody"] = {"required": True, "content": body}
    if "{" in operation.path:
        name = operation.path.partition("{")[2].partition(":")[0].partition("}")[0]
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    return described
