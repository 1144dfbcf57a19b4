"""tokenize, detokenize and apply_template."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from suite.actions.generation import check_content, completed
from suite.actions.residency import WAITING
from suite.bus.service import Call, action
from suite.catalogue import Model
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.actions.tokens import (
    ApplyTemplateReply,
    ApplyTemplateRequest,
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from suite.messages.actor import (
    ActorReply,
    ApplyTemplate,
    Detokenize,
    Detokenized,
    TemplateApplied,
    Tokenize,
    Tokenized,
)
from suite.node.node import Node

R = TypeVar("R", bound=ActorReply)

SECONDS = 60.0
"""Timeout for an answer of the model's process; a chat with a slow template may wait for others."""


@action("tokenize", limit=WAITING, queue=0, route="model")
async def tokenize(node: Node, request: TokenizeRequest, call: Call) -> TokenizeReply:
    """Turn a text into tokens."""
    model = await node.loadable(request.model_id)
    wanted = Tokenize(
        text=request.text,
        add_special=request.add_special,
        parse_special=request.parse_special,
        pieces=request.pieces,
    )
    made = await _ask(node, model, "tokenize", wanted, Tokenized, request, call)
    return TokenizeReply(
        model_id=model.model_id, tokens=made.tokens, pieces=made.pieces, count=len(made.tokens)
    )


@action("detokenize", limit=WAITING, queue=0, route="model")
async def detokenize(node: Node, request: DetokenizeRequest, call: Call) -> DetokenizeReply:
    """Turn tokens into text."""
    model = await node.loadable(request.model_id)
    wanted = Detokenize(tokens=request.tokens)
    made = await _ask(node, model, "detokenize", wanted, Detokenized, request, call)
    return DetokenizeReply(model_id=model.model_id, text=made.text)


@action("apply_template", limit=WAITING, queue=0, route="model")
async def apply_template(node: Node, request: ApplyTemplateRequest, call: Call) -> ApplyTemplateReply:
    """Make the prompt of a chat, and generate nothing."""
    check_content(request.messages)
    model = await node.loadable(request.model_id)
    chat = msgspec.convert(request, GenerateTextRequest, from_attributes=True)
    chat = completed(chat, model.file.entry.parameters, call.given)
    wanted = ApplyTemplate(request=chat)
    made = await _ask(node, model, "template", wanted, TemplateApplied, request, call)
    return ApplyTemplateReply(
        model_id=model.model_id,
        text=made.text,
        tokens=made.tokens,
        context_tokens=model.context_tokens,
        warnings=made.warnings,
    )


async def _ask(
    node: Node,
    model: Model,
    operation: str,
    wanted: Tokenize | Detokenize | ApplyTemplate,
    kind: type[R],
    request: TokenizeRequest | DetokenizeRequest | ApplyTemplateRequest,
    call: Call,
) -> R:
    return await node.dispatcher.ask(
        model,
        operation,
        wanted,
        kind,
        seconds=SECONDS,
        terms=node.terms(request.load_wait_ms, request.keep_alive),
        correlation_id=call.request_id,
    )
