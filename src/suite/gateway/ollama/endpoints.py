"""The endpoints of Ollama's API. Models are pulled, copied and deleted elsewhere: see `suite pull`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from suite.gateway.context import context_of
from suite.gateway.errors import error_bodies
from suite.gateway.gateway import Gateway
from suite.gateway.generations import Fields, while_connected
from suite.gateway.ollama.answer import (
    NDJSON,
    ChatLine,
    DoneReason,
    GenerateLine,
    Lines,
    OllamaAnswer,
    OllamaError,
    Write,
    in_message,
    in_response,
    ollama_error,
    whole,
)
from suite.gateway.ollama.chat import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    read_chat,
    read_generate,
)
from suite.gateway.ollama.embedding import (
    OllamaEmbedded,
    OllamaEmbedding,
    OllamaEmbeddingRequest,
    OllamaEmbedRequest,
    read_embed,
    read_embedding,
)
from suite.gateway.ollama.models import LoadedModels, Shown, ShowRequest, Tags, loaded, shown, tag
from suite.gateway.ollama.names import reader
from suite.gateway.ollama.options import OllamaRequest
from suite.gateway.operations import Operation, json_response
from suite.gateway.vectors import batches, embedded
from suite.messages.actions.residency import LoadModelReply
from suite.messages.actions.status import ModelInfo

API_VERSION: Final = "0.13.0"
"""The version of Ollama whose API this follows: clients ask for it to know what they may use."""

error_bodies["/api/"] = ollama_error
_read_show = reader(ShowRequest)


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/api/version``."""

    version: str


def operations(gateway: Gateway) -> list[Operation]:
    """The operations of Ollama's API."""
    api = _Ollama(gateway)
    return [
        Operation(
            path="/api/chat",
            method="POST",
            answer=api.chat,
            summary="The answer to a chat, as Ollama has it.",
            request=OllamaChatRequest,
            reply=ChatLine,
            event=ChatLine,
            stream_type=NDJSON,
            error=OllamaError,
        ),
        Operation(
            path="/api/generate",
            method="POST",
            answer=api.generate,
            summary="The answer to a prompt, as Ollama has it.",
            request=OllamaGenerateRequest,
            reply=GenerateLine,
            event=GenerateLine,
            stream_type=NDJSON,
            error=OllamaError,
        ),
        Operation(
            path="/api/embed",
            method="POST",
            answer=api.embed,
            summary="Vectors of texts, as Ollama has them.",
            request=OllamaEmbedRequest,
            reply=OllamaEmbedded,
            error=OllamaError,
        ),
        Operation(
            path="/api/embeddings",
            method="POST",
            answer=api.embedding,
            summary="The vector of a text, as older versions of Ollama have it.",
            request=OllamaEmbeddingRequest,
            reply=OllamaEmbedding,
            error=OllamaError,
        ),
        Operation(
            path="/api/show",
            method="POST",
            answer=api.show,
            summary="One model, as Ollama describes it.",
            request=ShowRequest,
            reply=Shown,
            error=OllamaError,
        ),
        Operation(
            path="/api/tags",
            answer=api.tags,
            summary="All models, as Ollama lists them.",
            reply=Tags,
            error=OllamaError,
        ),
        Operation(
            path="/api/ps",
            answer=api.loaded,
            summary="The models that are loaded, as Ollama lists them.",
            reply=LoadedModels,
            error=OllamaError,
        ),
        Operation(
            path="/api/version",
            answer=api.version,
            summary="The version of Ollama's API that this follows.",
            reply=Version,
            error=OllamaError,
        ),
    ]


class _Ollama:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def chat(self, request: Request) -> ASGIApp:
        """Answer a chat."""
        asked = await self._gateway.read(request, read_chat)
        if not asked.messages:
            return await self._move(request, asked, in_message)
        names = asked.callable_names
        return await self._generate(request, asked, asked.fields, in_message, callable_names=names)

    async def generate(self, request: Request) -> ASGIApp:
        """Answer a prompt."""
        asked = await self._gateway.read(request, read_generate)
        if not asked.prompt:
            return await self._move(request, asked, in_response)
        info = await self._info(asked.model)
        fields = asked.fields(has_template=info.has_chat_template)
        return await self._generate(request, asked, fields, in_response, callable_names=())

    async def embed(self, request: Request) -> Response:
        """Make vectors of texts."""
        asked = await self._gateway.read(request, read_embed)
        replies = await embedded(
            self._gateway,
            request,
            asked.model,
            asked.batches,
            dimensions=asked.dimensions,
            keep_alive=asked.stay,
        )
        return json_response(
            OllamaEmbedded(
                model=asked.model,
                embeddings=tuple(vector for reply in replies for vector in reply.embeddings),
                total_duration=round(self._elapsed(request) * 1e9),
                prompt_eval_count=sum(reply.usage.prompt_tokens for reply in replies),
            )
        )

    async def embedding(self, request: Request) -> Response:
        """Make the vector of one text."""
        asked = await self._gateway.read(request, read_embedding)
        (reply,) = await embedded(
            self._gateway,
            request,
            asked.model,
            batches((asked.prompt or "",)),
            normalize=False,
            keep_alive=asked.stay,
        )
        return json_response(OllamaEmbedding(embedding=reply.embeddings[0]))

    async def show(self, request: Request) -> Response:
        """Describe a model."""
        asked = await self._gateway.read(request, _read_show)
        return json_response(shown(await self._info(asked.model), now=self._gateway.now()))

    async def tags(self, request: Request) -> Response:
        """List all models."""
        now = self._gateway.now()
        infos = await self._gateway.models(context_of(request.scope).requester)
        return json_response(
            Tags(models=tuple(tag(each, now=now) for each in infos if each.status != "invalid"))
        )

    async def loaded(self, request: Request) -> Response:
        """List the models that are loaded."""
        now = self._gateway.now()
        infos = await self._gateway.models(context_of(request.scope).requester)
        models = tuple(loaded(each, each.instance, now=now) for each in infos if each.instance is not None)
        return json_response(LoadedModels(models=models))

    async def version(self, request: Request) -> Response:
        """Tell which version of the API this is."""
        del request
        return json_response(Version(version=API_VERSION))

    async def _generate(
        self,
        request: Request,
        asked: OllamaRequest,
        fields: Fields,
        write: Write,
        *,
        callable_names: Collection[str],
    ) -> ASGIApp:
        fields = {**fields, "generation_id": self._gateway.new_id()}
        lines = self._lines(request, asked, write)
        if asked.is_streamed:
            return self._gateway.generations.streamed(
                fields, OllamaAnswer(lines, callable_names=callable_names)
            )
        return json_response(whole(lines, await self._gateway.generations.whole(request, fields)))

    async def _move(self, request: Request, asked: OllamaRequest, write: Write) -> Response:
        """Load the model of a request that has nothing to answer, or unload it if it is not to stay."""
        fields = asked.common_fields
        reason: DoneReason = "unload" if fields.get("keep_alive") == "now" else "load"
        if reason == "load":
            await self._load(request, asked.model, fields)
        else:
            await while_connected(request, lambda: self._gateway.client.unload_model(asked.model))
        return json_response(self._lines(request, asked, write).without_text(reason))

    async def _load(self, request: Request, model_id: str, fields: Mapping[str, Any]) -> None:
        async def load(load_wait_ms: int) -> LoadModelReply:
            return await self._gateway.client.load_model(
                model_id,
                load_wait_ms=load_wait_ms,
                keep_alive=fields.get("keep_alive"),
                context_length=fields.get("context_length"),
            )

        await self._gateway.patiently(request, model_id, None, load)

    async def _info(self, model_id: str) -> ModelInfo:
        status = await self._gateway.client.get_model_status(model_id)
        assert status.model is not None
        return status.model

    def _lines(self, request: Request, asked: OllamaRequest, write: Write) -> Lines:
        created_at = self._gateway.now().isoformat()
        return Lines(asked.model, write, created_at=created_at, elapsed=lambda: self._elapsed(request))

    def _elapsed(self, request: Request) -> float:
        return self._gateway.clock() - context_of(request.scope).began
