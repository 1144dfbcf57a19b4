"""The client's methods that compute with texts without generating any: vectors, ranks, tokens, prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from suite.client.asking import Asking
from suite.client.generation import chat_messages
from suite.messages.actions.base import KeepAlive
from suite.messages.actions.chat import ChatMessage, Tool
from suite.messages.actions.embedding import EmbedReply, EmbedRequest
from suite.messages.actions.ranking import RerankReply, RerankRequest
from suite.messages.actions.tokens import (
    ApplyTemplateReply,
    ApplyTemplateRequest,
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)

ANSWER_SECONDS = 600.0
"""The time limit for an answer, including the load of the model, beside the wait that was asked for."""


class Texts(Asking):
    """The actions that compute with texts. Each loads its model first if necessary.

    If there is no memory for it now, it waits for its turn, up to ``load_wait_ms``. None: the service's
    setting, by default 30 seconds. ``keep_alive`` is as of `Client.load_model`.
    """

    async def embed(
        self,
        model_id: str,
        input: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        *,
        dimensions: int | None = None,
        normalize: bool = True,
        load_wait_ms: int | None = None,
        keep_alive: KeepAlive = None,
        requester: str | None = None,
    ) -> EmbedReply:
        """Turn a text, or up to 256 texts, into vectors. Token ids count as texts.

        ``dimensions`` keeps only so many numbers of each vector.
        """
        request = EmbedRequest(
            model_id=model_id,
            input=input if isinstance(input, str) else _frozen(input),
            dimensions=dimensions,
            normalize=normalize,
            load_wait_ms=load_wait_ms,
            keep_alive=keep_alive,
            requester=requester,
        )
        return await self._ask("embed", request, EmbedReply, seconds=_limit(load_wait_ms))

    async def rerank(
        self,
        model_id: str,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        return_documents: bool = True,
        raw_scores: bool = False,
        load_wait_ms: int | None = None,
        keep_alive: KeepAlive = None,
        requester: str | None = None,
    ) -> RerankReply:
        """Score documents by how well they fit a query, from 0 to 1; the best come first."""
        request = RerankRequest(
            model_id=model_id,
            query=query,
            documents=tuple(documents),
            top_n=top_n,
            return_documents=return_documents,
            raw_scores=raw_scores,
            load_wait_ms=load_wait_ms,
            keep_alive=keep_alive,
            requester=requester,
        )
        return await self._ask("rerank", request, RerankReply, seconds=_limit(load_wait_ms))

    async def tokenize(
        self,
        model_id: str,
        text: str,
        *,
        add_special: bool = True,
        parse_special: bool = True,
        pieces: bool = True,
        load_wait_ms: int | None = None,
        keep_alive: KeepAlive = None,
    ) -> TokenizeReply:
        """Turn a text into the model's tokens, as ``.tokens`` and ``.pieces``."""
        request = TokenizeRequest(
            model_id=model_id,
            text=text,
            add_special=add_special,
            parse_special=parse_special,
            pieces=pieces,
            load_wait_ms=load_wait_ms,
            keep_alive=keep_alive,
        )
        return await self._ask("tokenize", request, TokenizeReply, seconds=_limit(load_wait_ms))

    async def detokenize(
        self,
        model_id: str,
        tokens: Sequence[int],
        *,
        load_wait_ms: int | None = None,
        keep_alive: KeepAlive = None,
    ) -> DetokenizeReply:
        """Turn tokens into text."""
        request = DetokenizeRequest(
            model_id=model_id, tokens=tuple(tokens), load_wait_ms=load_wait_ms, keep_alive=keep_alive
        )
        return await self._ask("detokenize", request, DetokenizeReply, seconds=_limit(load_wait_ms))

    async def apply_template(
        self,
        model_id: str,
        messages: Sequence[ChatMessage | Mapping[str, Any]],
        *,
        tools: Sequence[Tool] = (),
        continue_final_message: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
        load_wait_ms: int | None = None,
        keep_alive: KeepAlive = None,
    ) -> ApplyTemplateReply:
        """Make the prompt of a chat, as ``.text``, and count its ``.tokens``; nothing is generated."""
        request = ApplyTemplateRequest(
            model_id=model_id,
            messages=chat_messages(messages) or (),
            tools=tuple(tools),
            continue_final_message=continue_final_message,
            chat_template_kwargs=dict(chat_template_kwargs or {}),
            system_prompt=system_prompt,
            load_wait_ms=load_wait_ms,
            keep_alive=keep_alive,
        )
        return await self._ask("apply_template", request, ApplyTemplateReply, seconds=_limit(load_wait_ms))


def _frozen(
    inputs: Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
) -> tuple[str | int | tuple[int, ...], ...]:
    return tuple(each if isinstance(each, str | int) else tuple(each) for each in inputs)


def _limit(load_wait_ms: int | None) -> float:
    return ANSWER_SECONDS + (load_wait_ms or 0) / 1000
