"""What a node and the process of a loaded model say to each other.

The node starts the process with one ``ActorSpec`` line on its standard input and keeps that pipe open: its
end tells the actor that the node is gone. What the actor reports comes as JSON lines on its standard
output, in order and lost only with the process. Generations are handed over by NATS request.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.events import Outcome


class NatsAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Where NATS is and how to be let in. Never printed, logged or traced."""

    url: str
    user: str | None = None
    password: str | None = None
    credentials_file: str | None = None
    inbox_prefix: str = "_INBOX"


class SnapshotSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's process may keep of conversations that have no slot."""

    directory: str | None
    """None: in memory only."""
    memory_bytes: int
    disk_bytes: int
    max_conversations: int
    max_age_seconds: float


class ActorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a model's process has to know."""

    node: str
    instance_id: str
    model_id: str
    model_path: str
    subject_root: str
    nats: NatsAccess
    context_tokens: int
    cache_tokens: int
    batch_tokens: int
    prompt_step_tokens: int
    gpu_layers: int
    threads: int
    slots: int
    """How many conversations keep their tokens in memory."""
    queue_limit: int
    model_digest: str | None
    """SHA-256 of the file, if it is known by now."""
    snapshots: SnapshotSpec | None
    """None: nothing is kept."""
    usage_retention_seconds: int
    """After which its usage expires in the log; 0: never."""
    tracing: str
    chat_template: str | None = None
    """Used instead of the model's own: a template, or the path of a file with one."""


# --- actor to node, on the pipe -----------------------------------------------------------------------------


class Report(msgspec.Struct, frozen=True, kw_only=True, tag_field="report"):
    """What every report is."""


class Loading(Report, frozen=True, kw_only=True, tag="loading"):
    """How far the load is, 0 to 1."""

    fraction: float


class Ready(Report, frozen=True, kw_only=True, tag="ready"):
    """The model answers on its subjects."""

    resident_bytes: int


class Failed(Report, frozen=True, kw_only=True, tag="failed"):
    """The model could not be loaded; the process ends."""

    code: str
    message: str


class Finished(Report, frozen=True, kw_only=True, tag="finished"):
    """A generation has ended and its requester has the final message (or nobody is there to have it)."""

    generation_id: str
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    outcome: Outcome
    seq: int | None
    """Of its event; None when it could not be appended."""


AnyReport: TypeAlias = Loading | Ready | Failed | Finished


# --- node to actor, by request ------------------------------------------------------------------------------


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """A generation for the actor, which answers the client's reply subject itself.

    The reply subject goes along in the header ``Suite-Reply``.
    """

    generation_id: str
    request: GenerateTextRequest
    warnings: tuple[str, ...] = ()


class ActorReply(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer of an actor has: an error for the client, or none."""

    code: str = ""
    """Empty if there is no error."""
    message: str = ""
    retry_after_ms: int | None = None
    """Of ``overloaded``."""


class HandoverReply(ActorReply, frozen=True, kw_only=True):
    """Accepted, or refused with an error for the client."""


class Clear(msgspec.Struct, frozen=True, kw_only=True):
    """Forget the tokens of a conversation, or for None all that is kept for reuse."""

    conversation_id: str | None


class Cleared(ActorReply, frozen=True, kw_only=True):
    """What one model has forgotten."""

    conversations: int = 0
    """Prompts without a conversation count too."""
    generating: int = 0
    """Of them, those that generate: their tokens go when that ends."""
    tokens: int = 0


class Embed(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to turn into vectors."""

    inputs: tuple[str, ...]
    normalize: bool
    seconds: float
    """How long anybody waits for them."""


class Embedded(ActorReply, frozen=True, kw_only=True):
    """The vectors in the order of their texts."""

    embeddings: tuple[tuple[float, ...], ...] = ()
    tokens: int = 0
    """Of all texts together."""
    resident_bytes: int = 0
    """Of the process, which grows when it embeds for the first time."""


REPLY_HEADER = "Suite-Reply"
