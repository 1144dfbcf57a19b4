"""The operations of OpenAI's API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from suite.gateway.context import Context, context_of
from suite.gateway.gateway import Gateway
from suite.gateway.generations import Put, StreamedAnswer, while_connected
from suite.gateway.openai.chat import (
    ChatAnswer,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    chat_completion,
    read_chat,
)
from suite.gateway.openai.completions import (
    Completion,
    CompletionEvents,
    CompletionRequest,
    Echo,
    Echoed,
    OnePrompt,
    completion,
    read_completion,
)
from suite.gateway.openai.embeddings import EmbeddingList, EmbeddingRequest, embedding_list, read_embedding
from suite.gateway.openai.models import Model, ModelList, model
from suite.gateway.openai.rerank import Ranking, RerankQuery, ranking, read_rerank
from suite.gateway.openai.responses import ResponsesRequest, read_responses
from suite.gateway.openai.responses_answer import (
    ResponseAnswer,
    ResponseDocument,
    ResponseEvent,
    Responses,
)
from suite.gateway.operations import Operation, json_response
from suite.gateway.vectors import embedded
from suite.messages.actions.ranking import RerankReply
from suite.messages.signals import Chunk

PROMPTS_AT_ONCE = 8
"""How many prompts of one request are generated from at a time."""


def operations(gateway: Gateway) -> list[Operation]:
    """The operations of OpenAI's API, and `rerank`."""
    api = _OpenAI(gateway)
    return [
        Operation(
            path="/v1/chat/completions",
            method="POST",
            answer=api.chat_completions,
            summary="The answer to a chat.",
            request=ChatRequest,
            reply=ChatCompletion,
            event=ChatChunk,
        ),
        Operation(
            path="/v1/responses",
            method="POST",
            answer=api.responses,
            summary="The answer to a conversation that comes as items.",
            request=ResponsesRequest,
            reply=ResponseDocument,
            event=ResponseEvent,
        ),
        Operation(
            path="/v1/completions",
            method="POST",
            answer=api.completions,
            summary="Texts that go on from prompts.",
            request=CompletionRequest,
            reply=Completion,
            event=Completion,
        ),
        Operation(
            path="/v1/embeddings",
            method="POST",
            answer=api.embeddings,
            summary="Vectors of texts.",
            request=EmbeddingRequest,
            reply=EmbeddingList,
        ),
        Operation(
            path="/v1/rerank",
            method="POST",
            answer=api.rerank,
            summary="How well documents fit a query.",
            request=RerankQuery,
            reply=Ranking,
        ),
        Operation(path="/v1/models", answer=api.models, summary="All models.", reply=ModelList),
        Operation(path="/v1/models/{model:path}", answer=api.model, summary="One model.", reply=Model),
    ]


class _OpenAI:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def chat_completions(self, request: Request) -> ASGIApp:
        """Answer a chat."""
        asked = await self._gateway.read(request, read_chat)
        context_of(request.scope).note_session(asked.prompt_cache_key, asked.user)
        id, created = self._gateway.new_id(), self._created()
        fields = {**asked.fields, "generation_id": id}
        if asked.stream:
            answer = ChatAnswer(asked, id=f"chatcmpl-{id}", created=created)
            return self._gateway.generations.streamed(fields, answer)
        reply = await self._gateway.generations.whole(request, fields)
        return json_response(chat_completion(reply, id=f"chatcmpl-{id}", created=created))

    async def responses(self, request: Request) -> ASGIApp:
        """Answer a conversation that comes as items."""
        asked = await self._gateway.read(request, read_responses)
        context_of(request.scope).note_session(asked.prompt_cache_key, asked.user)
        id, created_at = self._gateway.new_id(), self._created()
        fields = {**asked.fields, "generation_id": id}
        if asked.stream:
            answer = ResponseAnswer(asked, id=id, created_at=created_at)
            return self._gateway.generations.streamed(fields, answer)
        reply = await self._gateway.generations.whole(request, fields)
        return json_response(Responses(asked, id=id, created_at=created_at).whole(reply))

    async def completions(self, request: Request) -> ASGIApp:
        """Go on from prompts."""
        asked = await self._gateway.read(request, read_completion)
        id, created = f"cmpl-{self._gateway.new_id()}", self._created()
        prompts = _Prompts(self._gateway, asked)
        if asked.stream:
            events = CompletionEvents(asked, id=id, created=created)
            return StreamedAnswer(lambda context, put: prompts.stream(context, events, put), events)
        context = context_of(request.scope)
        echoed = await while_connected(request, lambda: prompts.whole(context))
        return json_response(completion(echoed, id=id, created=created))

    async def embeddings(self, request: Request) -> Response:
        """Turn texts into vectors."""
        asked = await self._gateway.read(request, read_embedding)
        replies = await embedded(
            self._gateway,
            request,
            asked.model,
            asked.batches,
            dimensions=asked.dimensions,
            load_wait_ms=asked.load_wait_ms,
            keep_alive=asked.keep_alive,
        )
        return json_response(embedding_list(replies, as_base64=asked.encoding_format == "base64"))

    async def rerank(self, request: Request) -> Response:
        """Rank documents."""
        asked = await self._gateway.read(request, read_rerank)
        context = context_of(request.scope)
        requester = context.requester

        async def rerank(load_wait_ms: int) -> RerankReply:
            return await self._gateway.client.rerank(
                asked.model,
                asked.query,
                asked.texts,
                top_n=asked.top_n,
                return_documents=bool(asked.return_documents),
                load_wait_ms=load_wait_ms,
                keep_alive=asked.keep_alive,
                requester=requester,
            )

        reply = await self._gateway.patiently(request, asked.model, asked.load_wait_ms, rerank)
        self._gateway.access.charge(requester, reply.usage.prompt_tokens)
        context.node = reply.node or None
        return json_response(ranking(reply, id=f"rerank-{self._gateway.new_id()}"))

    async def models(self, request: Request) -> Response:
        """List all models that can be used."""
        infos = await self._gateway.models(context_of(request.scope).requester)
        usable = (each for each in infos if each.status != "invalid")
        return json_response(ModelList(data=tuple(map(model, usable))))

    async def model(self, request: Request) -> Response:
        """Show one model."""
        requester = context_of(request.scope).requester
        model_id = await self._gateway.resolve(requester, request.path_params["model"])
        status = await self._gateway.client.get_model_status(model_id)
        assert status.model is not None
        return json_response(model(status.model))

    def _created(self) -> int:
        return int(self._gateway.now().timestamp())


class _Prompts:
    """The prompts of one completion request, some of which are generated from at a time."""

    def __init__(self, gateway: Gateway, request: CompletionRequest) -> None:
        self._gateway = gateway
        self._request = request
        self._at_once = anyio.Semaphore(PROMPTS_AT_ONCE)

    async def whole(self, context: Context) -> list[Echoed]:
        """The reply to each prompt, with what is echoed of it."""
        return await self._each(context, self._whole)

    async def stream(self, context: Context, events: CompletionEvents, put: Put) -> None:
        """Put the events of all prompts as they come."""

        async def one(context: Context, index: int, prompt: OnePrompt) -> Echoed:
            if self._request.echoes_logprobs:  # those of a prompt are known only at the end
                echoed = await self._whole(context, index, prompt)
                put(events.whole(index, echoed))
                return echoed
            echo = await self._echo(prompt)
            unsent = [events.echo(index, echo)] if echo.text else []

            def hear(chunk: Chunk) -> None:
                put(b"".join((*unsent, events.chunk(index, chunk))))
                unsent.clear()

            fields = self._request.fields_of(prompt)
            reply = await self._gateway.generations.ask(context, fields, hear)
            put(b"".join((*unsent, events.end(index, reply))))
            return Echoed(echo=echo, reply=reply)

        put(events.done(await self._each(context, one)))

    async def _each(
        self, context: Context, answer: Callable[[Context, int, OnePrompt], Awaitable[Echoed]]
    ) -> list[Echoed]:
        found: dict[int, Echoed] = {}

        async def one(index: int, prompt: OnePrompt) -> None:
            async with self._at_once:
                found[index] = await answer(context, index, prompt)

        try:
            async with anyio.create_task_group() as tasks:
                for index, prompt in enumerate(self._request.prompts):
                    tasks.start_soon(one, index, prompt)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # the others were cancelled, or failed in the same way
        return [found[index] for index in sorted(found)]

    async def _whole(self, context: Context, index: int, prompt: OnePrompt) -> Echoed:
        del index
        reply = await self._gateway.generations.ask_whole(context, self._request.fields_of(prompt))
        echo = await self._echo(prompt)
        if self._request.echoes_logprobs and reply.prompt_logprobs is not None:
            echo = msgspec.structs.replace(echo, tokens=reply.prompt_logprobs)
        return Echoed(echo=echo, reply=reply)

    async def _echo(self, prompt: OnePrompt) -> Echo:
        if not self._request.echo:
            return Echo()
        if isinstance(prompt, str):
            return Echo(text=prompt)
        return Echo(text=(await self._gateway.client.detokenize(self._request.model, prompt)).text)
