"""The operations of Anthropic's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from suite.gateway.anthropic.answer import (
    CountedTokens,
    MessageAnswer,
    MessageError,
    MessageEvent,
    OutputMessage,
    anthropic_error,
    output_message,
)
from suite.gateway.anthropic.request import (
    CountTokensRequest,
    MessagesRequest,
    read_count_tokens,
    read_messages,
)
from suite.gateway.context import context_of
from suite.gateway.errors import error_bodies
from suite.gateway.gateway import Gateway
from suite.gateway.operations import Operation, json_response
from suite.messages.actions.tokens import ApplyTemplateReply

_PATH = "/v1/messages"

error_bodies[_PATH] = anthropic_error


def operations(gateway: Gateway) -> list[Operation]:
    """The operations of Anthropic's API."""
    api = _Anthropic(gateway)
    return [
        Operation(
            path=_PATH,
            method="POST",
            answer=api.messages,
            summary="The answer to a conversation, as Anthropic's API has it.",
            request=MessagesRequest,
            reply=OutputMessage,
            event=MessageEvent,
            error=MessageError,
        ),
        Operation(
            path=f"{_PATH}/count_tokens",
            method="POST",
            answer=api.count_tokens,
            summary="How many tokens a conversation has.",
            request=CountTokensRequest,
            reply=CountedTokens,
            error=MessageError,
        ),
    ]


class _Anthropic:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def messages(self, request: Request) -> ASGIApp:
        """Answer a conversation."""
        asked = await self._gateway.read(request, read_messages)
        context_of(request.scope).note_session(None if asked.metadata is None else asked.metadata.user_id)
        generation_id = self._gateway.new_id()
        id, fields = f"msg_{generation_id}", {**asked.fields, "generation_id": generation_id}
        if asked.stream:
            answer = MessageAnswer(id=id, model=asked.model, callable_names=asked.callable_names)
            return self._gateway.generations.streamed(fields, answer)
        return json_response(output_message(await self._gateway.generations.whole(request, fields), id=id))

    async def count_tokens(self, request: Request) -> Response:
        """Count the tokens of a prompt, without an answer to it."""
        asked = await self._gateway.read(request, read_count_tokens)
        fields = asked.prompt_fields

        async def count(load_wait_ms: int) -> ApplyTemplateReply:
            return await self._gateway.client.apply_template(asked.model, **fields, load_wait_ms=load_wait_ms)

        reply = await self._gateway.patiently(request, asked.model, None, count)
        return json_response(CountedTokens(input_tokens=reply.tokens))
