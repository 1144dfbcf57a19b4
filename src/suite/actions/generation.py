"""generate_text, cancel_generation and clear_kv_cache."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import anyio
import msgspec

from suite.actions.gathering import gathered
from suite.actions.residency import WAITING
from suite.bus.service import Call, HandedOver, action
from suite.catalogue import Model
from suite.catalogue.entry import ParameterValue
from suite.errors import (
    CannotGenerate,
    EmptyPrompt,
    GenerationNotFound,
    InvalidPicture,
    InvalidRequest,
    UnsupportedContent,
)
from suite.explanation.words import counted
from suite.messages.actions.chat import PICTURE_PARTS, TEXT_PARTS, ChatMessage, ContentPart
from suite.messages.actions.generation import (
    CancelGenerationReply,
    CancelGenerationRequest,
    ClearKvCacheReply,
    ClearKvCacheRequest,
    GenerateTextReply,
    GenerateTextRequest,
)
from suite.messages.actor import Cleared, Handover
from suite.messages.signals import Accepted
from suite.node.actor_client import CLEAR_SECONDS, HANDOVER_SECONDS
from suite.node.adapters import given_adapters
from suite.node.heartbeats import beating
from suite.node.node import Node, context_warnings
from suite.node.snapshots import forget_snapshots
from suite.tasks import background

_WEB = ("https:", "http:")


@action(
    "generate_text",
    reply=GenerateTextReply,
    limit=WAITING,
    queue=0,
    aliases=("generate",),
    wrappers=("params",),
    route="model",
)
async def generate_text(node: Node, request: GenerateTextRequest, call: Call) -> HandedOver:
    """Hand the generation over to the model's actor, which answers the client. Loads the model first."""
    request, given = _one_limit(request, call.given)
    _check(request, call)
    node.pictures.check(_parts(request.messages or ()))
    generation_id = request.generation_id or node.new_id()
    async with node.generations.begun(
        generation_id,
        node.catalogue.canonical(request.model_id),
        conversation_id=request.conversation_id,
        client=call.client,
    ) as pending:
        model = await _loadable(node, request, call)
        if model.info is not None and not model.info.generates:
            raise CannotGenerate
        _check_reads_pictures(model, request.messages or ())
        warnings = (*call.warnings, *context_warnings(model, request.context_length))
        if request.stream:
            await call.send(Accepted(generation_id=generation_id, node=node.name))
        adapters = await given_adapters(
            node.settings, node.catalogue, model, request.model_id, request.adapters, new_id=node.new_id
        )
        variant, variant_version = _variant(node, request)
        if variant:
            node.check_name(variant, model)
        signalled = call if request.stream else None
        async with beating(signalled, pending.scope.cancel):
            request, fetched = await node.pictures.fetched(generation_id, request)
        request = completed(request, model.file.entry.parameters, given)
        handover = Handover(
            generation_id=generation_id,
            request=request,
            fetched=fetched,
            warnings=warnings,
            former_node=node.fleet.former_node(model.model_id, request.conversation_id),
            adapters=adapters,
            variant=variant,
            variant_version=variant_version,
        )
        terms = node.terms(
            request.load_wait_ms, request.keep_alive, stream=request.stream, priority=request.priority
        )
        await node.dispatcher.start(
            pending, model, handover, call.reply, signalled, terms=terms, commit=call.commit
        )
        # Not before: until then the conversation is where it was.
        node.fleet.note_conversation(model.model_id, request.conversation_id)
    return HandedOver()


def _variant(node: Node, request: GenerateTextRequest) -> tuple[str, int]:
    """The name of the model with adapters that a request asks for, and its version; empty and 0: for none.

    With adapters of its own, a request asks for something else.
    """
    name = node.catalogue.meant(request.model_id)
    if name not in node.catalogue.variants or request.adapters:
        return "", 0
    return name, node.names.number(name)


async def _loadable(node: Node, request: GenerateTextRequest, call: Call) -> Model:
    """The model of a request, while the other nodes are asked whether the id that it gives is free.

    Raises GenerationExists, and what `Node.loadable` raises.
    """
    generation_id, is_free = request.generation_id, anyio.Event()
    if generation_id is None or not node.fleet.others:
        return await node.loadable(request.model_id)

    async def take_id(generation_id: str) -> None:
        await node.generations.take_id(generation_id, call.reply)
        is_free.set()

    async with background() as tasks:
        tasks.start_soon(take_id, generation_id)
        model = await node.loadable(request.model_id)
        await is_free.wait()
    return model


def _cancelled(
    _: CancelGenerationRequest, replies: Mapping[str, CancelGenerationReply]
) -> CancelGenerationReply:
    """The reply of the node that had it."""
    node, reply = next(iter(replies.items()))
    return msgspec.structs.replace(reply, node=node)


@action("cancel_generation", route="each")
async def cancel_generation(
    node: Node, request: CancelGenerationRequest, call: Call
) -> CancelGenerationReply:
    """End a generation early."""
    try:
        return await _cancel(node, request, call)
    except GenerationNotFound:
        if call.is_of_node or request.node is not None or not node.fleet.others:
            raise
        # It may have been on its way from a node that had not got it yet to one that was asked before. That
        # node has sent it on before it answered, so it is there by now.
        return await _cancel(node, request, call)


@gathered("cancel_generation", _cancelled, seconds=lambda _: HANDOVER_SECONDS)
async def _cancel(node: Node, request: CancelGenerationRequest, _: Call) -> CancelGenerationReply:
    await node.generations.cancel(request.generation_id)
    return CancelGenerationReply(generation_id=request.generation_id, cancelled=True)


def _cleared(_: ClearKvCacheRequest, replies: Mapping[str, ClearKvCacheReply]) -> ClearKvCacheReply:
    """The reply for all nodes."""
    done = [each for each in replies.values() if each.cleared_conversations]
    conversations = sum(each.cleared_conversations for each in done)
    tokens = sum(each.cleared_tokens for each in done)
    if len(done) <= 1:
        return done[0] if done else next(iter(replies.values()))
    return ClearKvCacheReply(
        message=f"{_forgotten(tokens, conversations)} on {counted(len(done), 'node')}",
        cleared_conversations=conversations,
        cleared_tokens=tokens,
    )


@action("clear_kv_cache", route="each")
@gathered("clear_kv_cache", _cleared, seconds=lambda _: CLEAR_SECONDS, changes=True)
async def clear_kv_cache(node: Node, request: ClearKvCacheRequest, _: Call) -> ClearKvCacheReply:
    """Clear the tokens that models keep for reuse, whether they are loaded or not."""
    model_id = None if request.model_id is None else node.model(request.model_id).model_id
    try:
        cleared = await node.actors.clear(node.supervisor.loaded(model_id), request.conversation_id)
    finally:
        # After the processes, which may be about to write snapshots, and even if one of them does not answer.
        files, tokens = await forget_snapshots(node.settings, model_id, request.conversation_id)
    cleared = msgspec.structs.replace(
        cleared, conversations=cleared.conversations + files, tokens=cleared.tokens + tokens
    )
    return ClearKvCacheReply(
        message=_told(cleared),
        cleared_conversations=cleared.conversations,
        cleared_tokens=cleared.tokens,
    )


def completed(
    request: GenerateTextRequest, parameters: Mapping[str, ParameterValue], given: Collection[str]
) -> GenerateTextRequest:
    """The request, with the parameters that its model comes with for the fields that were not given.

    A system prompt is one for chats, and only for those that begin and bring none.
    """
    left_out = {
        name: value
        for name, value in parameters.items()
        if name not in given or getattr(request, name) is None
    }
    if (
        request.continue_
        or request.messages is None
        or any(each.role in ("system", "developer") for each in request.messages)
    ):
        left_out.pop("system_prompt", None)
    return msgspec.structs.replace(request, **left_out)


def _one_limit(
    request: GenerateTextRequest, given: Collection[str]
) -> tuple[GenerateTextRequest, Collection[str]]:
    """The request with its limit of tokens under one name, and the names of the fields that were given."""
    limit = request.max_completion_tokens
    if limit is None:
        return request, given
    if "max_tokens" in given and limit != request.max_tokens:
        raise InvalidRequest("max_tokens and max_completion_tokens are given and differ: send one of them")
    request = msgspec.structs.replace(request, max_tokens=limit, max_completion_tokens=None)
    return request, {*given, "max_tokens"}


def _told(cleared: Cleared) -> str:
    if not cleared.conversations:
        return "there was nothing to forget"
    later = f", of {cleared.generating} once their generation ends" if cleared.generating else ""
    return f"{_forgotten(cleared.tokens, cleared.conversations)}{later}"


def _forgotten(tokens: int, conversations: int) -> str:
    are = "is" if tokens == 1 else "are"
    return f"{counted(tokens, 'token')} of {counted(conversations, 'conversation')} {are} forgotten"


def check_content(messages: Sequence[ChatMessage], *, takes_pictures: bool = False) -> None:
    """Raises UnsupportedContent or InvalidPicture for a part that no model reads, with the path to it."""
    for field, part in _parts(messages):
        _check_part(field, part, takes_pictures)


def _parts(messages: Sequence[ChatMessage]) -> Iterator[tuple[str, ContentPart]]:
    """Each part of their contents, with how to name it."""
    for index, message in enumerate(messages):
        for part, each in enumerate(message.content if isinstance(message.content, tuple) else ()):
            yield f"field 'messages[{index}].content[{part}]'", each


def _check_part(field: str, part: ContentPart, takes_pictures: bool) -> None:
    read = TEXT_PARTS | PICTURE_PARTS if takes_pictures else TEXT_PARTS
    if part.type not in read:
        what = "text and pictures" if takes_pictures else "text"
        raise UnsupportedContent(
            f"{field} has the type {part.type!r}, and only {what} can be read: send it as text, or leave "
            "it out"
        )
    if part.url is not None and not part.url.lower().startswith(_WEB):
        raise InvalidPicture(
            f"{field} has a URL that is neither a data URL with base64 nor one of the web: send the picture "
            "itself (data:image/png;base64,...)"
        )


def _check_reads_pictures(model: Model, messages: Sequence[ChatMessage]) -> None:
    """Raises UnsupportedContent if there are pictures and the model reads none."""
    if model.projector is not None:
        return
    for field, part in _parts(messages):
        if part.picture is not None:
            raise UnsupportedContent(
                f"{field} is a picture, and {model.model_id} reads none: {model.reads_no_pictures}"
            )


def _check(request: GenerateTextRequest, call: Call) -> None:
    if not call.reply:
        raise InvalidRequest("a generation needs a reply subject to send its answer to")
    if request.prompt is not None and request.messages is not None:
        raise InvalidRequest("prompt and messages are both given: send one of them")
    if not request.prompt and not request.messages and not request.suffix:
        raise EmptyPrompt
    check_content(request.messages or (), takes_pictures=True)
    if request.continue_ and (request.conversation_id is None or request.system_prompt is not None):
        raise InvalidRequest("continue needs the conversation_id of a conversation, and no system_prompt")
    if request.continue_ and not request.reuse:
        raise InvalidRequest("continue goes on from tokens in memory: send the whole chat for reuse: false")
    for clash, message in _clashes(request):
        if clash:
            raise InvalidRequest(message)


def _clashes(request: GenerateTextRequest) -> Iterator[tuple[bool, str]]:
    """What must not be sent together, each with whether it is, and what to do."""
    scores = request.prompt_logprobs is not None
    yield (
        scores and any(each.has_pictures for each in request.messages or ()),
        ("prompt_logprobs of a picture do not exist: ask for them without pictures"),
    )
    yield (
        not request.max_tokens and not scores,
        ("max_tokens is 0: ask for a token at least, or for prompt_logprobs"),
    )
    yield (
        request.continue_ and scores,
        ("prompt_logprobs needs the whole prompt to be decoded: send the whole chat, without continue"),
    )
    yield (
        request.continue_ and request.n > 1,
        ("a conversation is continued by one answer: send the whole chat for several, without continue"),
    )
    yield (
        bool(request.suffix) and request.messages is not None,
        ("suffix needs a prompt, which it follows: send prompt instead of messages"),
    )
    yield (
        bool(request.suffix) and (request.continue_ or request.truncate is not None),
        ("suffix cannot be combined with continue or truncate: send the text around the gap without them"),
    )
