"""The endpoints of Anthropic's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from suite.gateway.anthropic.answer import CountedTokens, MessageAnswer, anthropic_error, output_message
from suite.gateway.anthropic.request import read_count_tokens, read_messages
from suite.gateway.encoding import json_response
from suite.gateway.errors import error_bodies
from suite.gateway.gateway import Gateway

_PATH = "/v1/messages"

error_bodies[_PATH] = anthropic_error


def routes(gateway: Gateway) -> list[Route]:
    """The routes of Anthropic's API."""
    api = _Anthropic(gateway)
    return [
        Route(_PATH, api.messages, methods=["POST"]),
        Route(f"{_PATH}/count_tokens", api.count_tokens, methods=["POST"]),
    ]


class _Anthropic:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def messages(self, request: Request) -> ASGIApp:
        """Answer a conversation."""
        asked = await self._gateway.read(request, read_messages, model=lambda asked: asked.model)
        generation_id = self._gateway.new_id()
        id, fields = f"msg_{generation_id}", {**asked.fields, "generation_id": generation_id}
        if asked.stream:
            answer = MessageAnswer(id=id, model=asked.model, may_call_tools=asked.may_call_tools)
            return self._gateway.generations.streamed(fields, answer)
        return json_response(output_message(await self._gateway.generations.whole(request, fields), id=id))

    async def count_tokens(self, request: Request) -> Response:
        """Count the tokens of a prompt, without an answer to it."""
        asked = await self._gateway.read(request, read_count_tokens, model=lambda asked: asked.model)
        reply = await self._gateway.client.apply_template(asked.model, **asked.prompt_fields)
        return json_response(CountedTokens(input_tokens=reply.count))
