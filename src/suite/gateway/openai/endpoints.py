"""The endpoints of OpenAI's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from suite.gateway.encoding import json_response
from suite.gateway.gateway import Gateway
from suite.gateway.openai.chat import ChatAnswer, chat_completion, read_chat
from suite.gateway.openai.models import ModelList, model
from suite.gateway.openai.response import ResponseAnswer, Responses
from suite.gateway.openai.responses import read_responses


def routes(gateway: Gateway) -> list[Route]:
    """The routes of OpenAI's API."""
    api = _OpenAI(gateway)
    return [
        Route("/v1/chat/completions", api.chat_completions, methods=["POST"]),
        Route("/v1/responses", api.responses, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{model:path}", api.model),
    ]


class _OpenAI:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def chat_completions(self, request: Request) -> ASGIApp:
        """Answer a chat."""
        asked = await self._gateway.read(request, read_chat, model=lambda asked: asked.model)
        id, created = self._gateway.new_id(), int(self._gateway.now().timestamp())
        fields = {**asked.fields, "generation_id": id}
        if asked.stream:
            answer = ChatAnswer(asked, id=f"chatcmpl-{id}", created=created)
            return self._gateway.generations.streamed(fields, answer)
        reply = await self._gateway.generations.whole(request, fields)
        return json_response(chat_completion(reply, id=f"chatcmpl-{id}", created=created))

    async def responses(self, request: Request) -> ASGIApp:
        """Answer a conversation that comes as items."""
        asked = await self._gateway.read(request, read_responses, model=lambda asked: asked.model)
        id, created_at = self._gateway.new_id(), int(self._gateway.now().timestamp())
        fields = {**asked.fields, "generation_id": id}
        if asked.stream:
            answer = ResponseAnswer(asked, id=id, created_at=created_at)
            return self._gateway.generations.streamed(fields, answer)
        reply = await self._gateway.generations.whole(request, fields)
        return json_response(Responses(asked, id=id, created_at=created_at).whole(reply))

    async def models(self, request: Request) -> Response:
        """List all models."""
        del request
        infos = (await self._gateway.client.list_models()).models
        return json_response(ModelList(data=tuple(model(each) for each in infos if not each.error)))

    async def model(self, request: Request) -> Response:
        """Show one model."""
        status = await self._gateway.client.get_model_status(request.path_params["model"])
        assert status.model is not None
        return json_response(model(status.model))
