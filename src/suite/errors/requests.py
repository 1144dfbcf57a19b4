"""The request is wrong, or asks a model for what it cannot do."""

from __future__ import annotations

from suite.errors.base import SuiteError


class InvalidJson(SuiteError):
    """The request's body is not JSON: send one UTF-8 JSON object."""

    code = "invalid_json"
    status = 400


class InvalidRequest(SuiteError):
    """A field is missing, of the wrong type or out of range: the message names it."""

    code = "invalid_request"
    status = 400


class EmptyPrompt(SuiteError):
    """There is nothing to answer: send a prompt, or at least one message."""

    code = "empty_prompt"
    status = 400


class PromptTooLong(SuiteError):
    """The prompt does not fit into the model's context: shorten it or configure a larger context."""

    code = "prompt_too_long"
    status = 413


class ConversationGone(SuiteError):
    """The tokens of this conversation are no longer kept: send all of it, without continue."""

    code = "conversation_gone"
    status = 410


class NoChatTemplate(SuiteError):
    """The model's file has no chat template: send a prompt, or configure the model's chat_template."""

    code = "no_chat_template"
    status = 400


class InvalidChat(SuiteError):
    """The model's chat template refused these messages."""

    code = "invalid_chat"
    status = 400


class UnsupportedContent(SuiteError):
    """The model cannot read this: send the message without it, or choose a model that reads pictures."""

    code = "unsupported_content"
    status = 400


class InvalidPicture(SuiteError):
    """The picture cannot be read: the message says why."""

    code = "invalid_picture"
    status = 400


class PictureNotAllowed(SuiteError):
    """The picture is not fetched from there: send it itself, as a data URL, or have the host listed."""

    code = "picture_not_allowed"
    status = 400


class PictureUnreachable(SuiteError):
    """The picture could not be fetched from its web server: the message says why."""

    code = "picture_unreachable"
    status = 400


class PictureTooLarge(SuiteError):
    """The picture has too many bytes or pixels: make it smaller."""

    code = "picture_too_large"
    status = 413


class InvalidGrammar(SuiteError):
    """The grammar cannot be used: the message says what is wrong with it."""

    code = "invalid_grammar"
    status = 400


class InvalidSchema(SuiteError):
    """The JSON schema cannot be used: the message has the path to what is wrong."""

    code = "invalid_schema"
    status = 400


class SchemaNotSupported(SuiteError):
    """A strict schema has keywords that cannot be enforced: change it, or send it without strict."""

    code = "schema_not_supported"
    status = 400


class CannotGenerate(SuiteError):
    """The model cannot generate text, it makes embeddings: choose another one, or use `embed`."""

    code = "cannot_generate"
    status = 400


class CannotEmbed(SuiteError):
    """The model cannot make embeddings: choose another one."""

    code = "cannot_embed"
    status = 400


class CannotRerank(SuiteError):
    """The model has no head that ranks documents: choose one that has."""

    code = "cannot_rerank"
    status = 400


class CannotFillIn(SuiteError):
    """The model has no tokens to fill in a gap: send a prompt without suffix, or choose a model for code."""

    code = "cannot_fill_in"
    status = 400


class UnknownAction(SuiteError):
    """There is no such action."""

    code = "unknown_action"
    status = 404


class Disabled(SuiteError):
    """The action is switched off on this node: the message names the setting."""

    code = "disabled"
    status = 403
