"""The parts of a chat: messages, tools and tool calls, and the format of the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import Name

TEXT_PARTS = frozenset({"text", "refusal"})
"""The types of content parts that are text."""
PICTURE_PARTS = frozenset({"image", "image_url"})
"""The types of content parts that are pictures; what is neither is refused with `unsupported_content`."""
DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
"""What a data URL with base64 begins with."""
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
"""What makes something a URL, and no base64: of the web, of a file, or a data URL without base64."""


def without_head(picture: str) -> str:
    """The base64 of a picture that may be sent as a data URL."""
    head = DATA_URL.match(picture)
    return picture if head is None else picture[head.end() :]


class PictureUrl(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A picture, as in OpenAI's API."""

    url: str
    """A data URL with base64: ``data:image/png;base64,...``; or a URL of the web, whose host is listed in the
    setting ``pictures.fetch_from``."""
    detail: str | None = None
    """Has no effect: a model sees all of a picture that it can."""


class ContentPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a message's content, as in OpenAI's API: a text or a picture."""

    type: Annotated[str, Meta(min_length=1, max_length=64)]
    """``text``; ``refusal`` in an assistant's message; ``image`` or ``image_url`` for a model with the
    capability ``vision``. Audio and files are refused."""
    data: str | None = None
    """The picture of a part of the type ``image``: a PNG, JPEG, GIF, WebP or BMP file in base64, or as a data
    URL; or where it is, as in ``image_url``."""
    attached: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    """Instead of ``data``: the SHA-256 of the picture's file, which is asked for at ``attachments``."""
    image_url: PictureUrl | str | None = None
    """The picture of a part of the type ``image_url``."""
    text: str | None = None
    """The text of a part of the type ``text``."""
    refusal: str | None = None
    """The text of a part of the type ``refusal``."""

    def __post_init__(self) -> None:
        if self.type in TEXT_PARTS and self.plain is None:
            raise ValueError(f"{self.type} is missing: a part of the type {self.type!r} has it")
        if self.type in PICTURE_PARTS and self.picture is None:
            name = "data" if self.type == "image" else self.type
            raise ValueError(f"{name} is missing: a part of the type {self.type!r} has it")

    @property
    def picture(self) -> str | None:
        """What tells one picture from another; None if it is none.

        Its base64, the digest of one that is attached, or the URL of one that would have to be fetched.
        """
        if self.type not in PICTURE_PARTS:
            return None
        if self.type == "image":
            sent = self.attached or self.data
        else:
            sent = self.image_url.url if isinstance(self.image_url, PictureUrl) else self.image_url
        return sent and without_head(sent)

    @property
    def url(self) -> str | None:
        """The URL of a picture that would have to be fetched; None: it is sent, or there is none."""
        picture = self.picture if self.attached is None else None
        return picture if picture is not None and _SCHEME.match(picture) else None

    @property
    def plain(self) -> str | None:
        """The part's text; None if it is no text."""
        return {"text": self.text, "refusal": self.refusal}.get(self.type)


class SentFunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """The function of a tool call in a message that a client sends."""

    name: Name
    arguments: str | dict[str, Any]
    """A JSON object, as text or as an object."""


class FunctionCall(SentFunctionCall, frozen=True, kw_only=True):
    """The function that the model calls, and its arguments."""

    name: Name
    arguments: str
    """A JSON object as text, written by the model: validate it before use."""


class SentToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call in a message that a client sends: what an earlier reply had, as it was."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]
    type: Literal["function"] | None = "function"
    function: SentFunctionCall


class ToolCall(SentToolCall, frozen=True, kw_only=True):
    """A tool call by the model; answer it with a message of the role ``tool``."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a chat."""

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    """``system``, ``developer``, ``user``, ``assistant``, ``tool``, or another role that the model's template
    supports. ``developer`` is ``system`` for a template that does not know it."""
    content: str | Annotated[tuple[ContentPart, ...], Meta(max_length=1024)] | None = None
    """A text, or its parts, which are joined with a line end between them.

    An ``assistant`` or ``tool`` message may have none.
    """
    reasoning_content: str | None = None
    """In an assistant's message: what it thought before this answer, for templates that show it.

    ``reasoning`` of a reply is meant for it.
    """
    reasoning: str | None = None
    """Another name of ``reasoning_content``."""
    tool_calls: Annotated[tuple[SentToolCall, ...], Meta(max_length=128)] | None = None
    """In an assistant's message: its tool calls."""
    tool_call_id: Annotated[str, Meta(max_length=200)] | None = None
    """In a tool's message: the id of the call that it answers."""
    name: Name | None = None
    """In a tool's message: the name of the function."""

    def __post_init__(self) -> None:
        if self.content is None and not self.tool_calls and self.role not in ("assistant", "tool"):
            raise ValueError("content is missing: send it, or tool_calls")

    @property
    def text(self) -> str:
        """The content as one text; empty if there is none. Parts that are no text are left out."""
        if isinstance(self.content, tuple):
            return "\n".join(part.plain for part in self.content if part.plain is not None)
        return self.content or ""

    @property
    def has_pictures(self) -> bool:
        """Whether any part of it is a picture."""
        return next(self.pictures, None) is not None

    @property
    def pictures(self) -> Iterator[ContentPart]:
        """Each part that is a picture."""
        for part in self.content if isinstance(self.content, tuple) else ():
            if part.picture is not None:
                yield part

    @property
    def thoughts(self) -> str | None:
        """What the assistant thought before this answer, by either name."""
        return self.reasoning if self.reasoning_content is None else self.reasoning_content


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """The JSON schema of its arguments, which are an object."""
    strict: bool | None = None
    """True: a schema that cannot be followed exactly is refused instead of warned about."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the model may use."""

    type: Literal["function"] | None = "function"
    function: Function


class FunctionName(msgspec.Struct, frozen=True, kw_only=True):
    """The name of one of the request's functions."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]


class NamedToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The function that the model has to call."""

    type: Literal["function"] | None = "function"
    function: FunctionName


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | NamedToolChoice


class SchemaFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The ``json_schema`` of a response format, as in OpenAI's API."""

    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The format of the answer: any text, any JSON object, or JSON that satisfies a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None
    schema: dict[str, Any] | None = None
    """The schema itself, as an alternative to ``json_schema``."""
