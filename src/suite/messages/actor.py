"""The messages between a node and the process of a loaded model (its actor).

The node writes one ``ActorSpec`` line to the process's standard input and keeps that pipe open; when it
closes, the actor knows that the node is gone. An ``End`` line on it ends the process in order, as SIGTERM
does. The actor reports in JSON lines on its standard output, which arrive in order and are lost only if the
process dies. Generations are handed over by NATS request.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import msgspec

from suite.messages.actions.generation import GenerateTextRequest, Timings
from suite.messages.actions.status import Confinement, KvCacheForm
from suite.messages.events import Outcome
from suite.messages.tracing import TraceSettings


class NatsAccess(msgspec.Struct, frozen=True, kw_only=True):
    """The address of NATS and the credentials for it. Never printed, logged or traced."""

    url: str
    user: str | None = None
    password: str | None = None
    credentials_file: str | None = None
    ca_file: str | None = None
    """The certificate authority of the server, as PEM; None: those that this machine trusts."""
    inbox_prefix: str = "_INBOX"


class SnapshotSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how much a model's process may store of conversations that have no slot."""

    directory: str | None
    """None: in memory only."""
    memory_bytes: int
    disk_bytes: int
    max_conversations: int
    max_age_seconds: float


class MovingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The bucket of the object store through which conversations go to other nodes, and come from them."""

    bucket: str
    max_bytes: int
    ttl_seconds: float
    replicas: int = 1


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a model as the node saw them, so that its process notices if it has loaded others."""

    paths: tuple[str, ...]
    signature: str
    """As text: see `suite.engine.gguf.signature`."""


class CoreSeat(msgspec.Struct, frozen=True, kw_only=True):
    """Where the processes of a node's models say what they do, to share its cores: `suite.core_table`."""

    descriptor: int
    """The file descriptor of the table, which every such process inherits."""
    row: int
    threads: int | None
    """The most threads for this model; None: as many as there are cores."""


class DraftSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model that guesses the next tokens of another one, in its process."""

    model_path: str
    paths: tuple[str, ...]
    """Of all its files."""
    flash_attention: bool = True


class ConfinementSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a model's process is to be confined."""

    memory_bytes: int
    """What all models of the node may take together: more of its own, no process may have."""


class ActorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a model's process needs to know."""

    node: str
    instance_id: str
    model_id: str
    model_path: str
    subject_root: str
    nats: NatsAccess
    context_tokens: int
    cache_tokens: int
    kv_cache: KvCacheForm
    flash_attention: bool = True
    """Whether a CPU computes with llama.cpp's flash attention; a GPU does where it can."""
    batch_tokens: int
    prompt_step_tokens: int
    max_step_ms: int
    speculates: bool = True
    """Whether the next tokens of answers are guessed where that is faster."""
    draft: DraftSpec | None = None
    """What guesses them; None: they are looked up in the prompt and the answer so far."""
    gpu_layers: int
    tensor_split: tuple[float, ...] = ()
    """The share of each GPU in the layers that are put on GPUs; empty: llama.cpp divides them."""
    threads: int
    slots: int
    """How many conversations have their tokens in the KV cache at once."""
    queue_limit: int
    model_files: ModelFiles
    model_digest: str | None
    """SHA-256 of these files; None while it is not known."""
    snapshots: SnapshotSpec | None
    """None: no snapshots are made."""
    moving: MovingSpec | None = None
    """None: no conversation goes to another node."""
    usage_retention_seconds: int
    """After this time its usage events expire in the log; 0: never."""
    tracing: TraceSettings
    measures: bool = False
    """Whether the node wants to know what generations, and the steps of its engine, took."""
    cores: CoreSeat | None = None
    """None: it computes with its ``threads``, whatever other models do."""
    chat_template: str | None = None
    """Replaces the model's own: the text of a template, or the path of a file with one."""
    projector: str | None = None
    """The path of the projector (mmproj) by which it reads pictures; None: it reads none."""
    confinement: ConfinementSpec | None = None
    """None: it keeps every right of its node's user."""
    adapters: str | None = None
    """The folder in which it finds the adapters that generations are to be computed with."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """End in order, and give every client that is not done this error."""

    code: str
    message: str


# --- actor to node, on the pipe -----------------------------------------------------------------------------


class Report(msgspec.Struct, frozen=True, kw_only=True, tag_field="report"):
    """The base of all reports."""


class Imported(Report, frozen=True, kw_only=True, tag="imported"):
    """The process has imported what every load needs, whether it has its spec already or stands ready."""


class Loading(Report, frozen=True, kw_only=True, tag="loading"):
    """The progress of the load, 0 to 1."""

    fraction: float


BufferPart: TypeAlias = Literal["weights", "kv", "compute"]


class Buffer(msgspec.Struct, frozen=True, kw_only=True):
    """Memory that llama.cpp has allocated."""

    device: str
    """As llama.cpp calls it: ``CPU``, ``CPU_Mapped``, ``CUDA0``."""
    part: BufferPart
    bytes: int

    @property
    def gpu(self) -> int | None:
        """The number of the GPU that it is on; None: it is in RAM, for only GPUs have numbers."""
        number = re.search(r"\d+\Z", self.device)
        return None if number is None else int(number[0])


class Ready(Report, frozen=True, kw_only=True, tag="ready"):
    """The model is loaded and answers on its subjects."""

    resident_bytes: int
    buffers: tuple[Buffer, ...] = ()
    """Empty where llama.cpp does not say."""
    confinement: Confinement = Confinement()
    """What it cannot do any more; neither on nor off: it was not to be confined."""


class Failed(Report, frozen=True, kw_only=True, tag="failed"):
    """The model could not be loaded; the process ends."""

    code: str
    message: str


class Finished(Report, frozen=True, kw_only=True, tag="finished"):
    """A generation has ended, and its final message was sent (unless the requester is gone)."""

    generation_id: str
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    outcome: Outcome
    seq: int | None
    """The sequence of its event; None when it could not be appended."""
    unsaved_tokens: int = 0
    """The tokens in slots that would be lost with the process, because no snapshot of them is put on disk."""
    operation: str
    """As ``gen_ai.operation.name``: ``chat`` or ``text_completion``."""
    error: str = ""
    """The code of the error that the client got; empty: none."""
    waited_ms: float = 0.0
    """For memory and the load, before the process had the request."""
    seconds: float
    """From when the process had the request until the generation's end."""
    timings: Timings | None = None
    """None: nothing was generated, as the prompt was refused, or the node does not measure."""


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One step of the engine: a batch that was decoded."""

    sequences: int
    tokens: int
    waiting: int
    """Generations that waited for a slot meanwhile."""
    seconds: float
    threads: int | None
    """None: as many as the model was loaded with."""


class Stepped(Report, frozen=True, kw_only=True, tag="stepped"):
    """The engine has made these steps since the last such report."""

    steps: tuple[Step, ...]


AnyReport: TypeAlias = Imported | Loading | Ready | Failed | Finished | Stepped


# --- node to actor, by request ------------------------------------------------------------------------------


class AdapterFile(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter that a generation is computed with."""

    id: str
    sha256: str
    path: str
    """Below the folder ``adapters`` of the process's specification."""
    scale: float


class FetchedPictures(msgspec.Struct, frozen=True, kw_only=True):
    """The pictures of a request that its node has fetched, and sends in parts."""

    digests: tuple[str, ...]
    """The SHA-256 of each, in hex."""
    source: str
    """The inbox at which the node is asked for them."""


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """A generation for the actor, which answers the client's reply subject itself.

    The header ``Suite-Reply`` has the client's reply subject.
    """

    generation_id: str
    request: GenerateTextRequest
    warnings: tuple[str, ...] = ()
    waited_ms: float = 0.0
    """For memory and the load, until the actor was asked."""
    former_node: str = ""
    """The node that has had its conversation until now; empty if that is this one, or not known."""
    adapters: tuple[AdapterFile, ...] = ()
    """What its model is computed with."""
    version: int = 0
    """Which version of the model the actor has, by number; 0: not known."""
    fetched: FetchedPictures | None = None
    """Those of its pictures that the node has; all others are in the request, or at its sender."""
    variant: str = ""
    """The name that stands for the model with just these adapters; empty: it was not asked for by one."""
    variant_version: int = 0
    """Which version that is, by number; 0: not known."""


class ActorReply(msgspec.Struct, frozen=True, kw_only=True):
    """The base of an actor's answers: an error for the client, or none."""

    code: str = ""
    """Empty if there is no error."""
    message: str = ""
    retry_after_ms: int | None = None
    """For ``overloaded``: when to try again."""


class HandoverReply(ActorReply, frozen=True, kw_only=True):
    """The actor accepts the generation, or refuses it with an error for the client."""


class Clear(msgspec.Struct, frozen=True, kw_only=True):
    """Forget the tokens of a conversation, or with None all tokens kept for reuse."""

    conversation_id: str | None


class Cleared(ActorReply, frozen=True, kw_only=True):
    """The numbers of conversations and tokens that one model has forgotten."""

    conversations: int = 0
    """Counts prompts without a conversation too."""
    generating: int = 0
    """How many of them are generating; their tokens are forgotten when the generation ends."""
    tokens: int = 0


class LoadAdapters(msgspec.Struct, frozen=True, kw_only=True):
    """Have these adapters in memory, so that the first generation with them need not wait for that."""

    adapters: tuple[AdapterFile, ...]


class AdaptersLoaded(ActorReply, frozen=True, kw_only=True):
    """They are, or the error says why one of them cannot be loaded."""


class GenerationProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far one generation of an actor is."""

    has_slot: bool
    """False while it waits for one."""
    completion_tokens: int


class ProgressReply(ActorReply, frozen=True, kw_only=True):
    """How far the generations of an actor are, by their ids. The request has no body."""

    generations: dict[str, GenerationProgress] = {}


class GetConversation(msgspec.Struct, frozen=True, kw_only=True):
    """Asks the node that has had a conversation for its state, and that node asks its actor with the same.

    Whatever the answer, the conversation goes on where it is asked for.
    """

    model_id: str
    content: str
    """The digest of the model's content."""
    key: str
    """What states must be of to be restored: see `suite.engine.snapshots.folder.key_of`."""
    conversation_id: str
    reading_seconds: float | None
    """How long the actor that asks would take to read the prompt instead; None if it has not read any yet."""
    is_needed: bool = False
    """Whether it cannot read the prompt instead, as only the new turn was sent."""


class ConversationStored(ActorReply, frozen=True, kw_only=True):
    """The state of the conversation is in the object store."""

    name: str = ""
    """Under this name; empty: there is none, or its tokens are read sooner than it is moved."""


class Embed(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to turn into vectors."""

    inputs: tuple[str | tuple[int, ...], ...]
    """Each as text or as token ids."""
    dimensions: int | None = None
    """How many numbers of each vector to keep; None: all."""
    normalize: bool
    seconds: float
    """The time limit for the answer."""


class Pooled(ActorReply, frozen=True, kw_only=True):
    """What a second context over the model's weights makes of texts."""

    tokens: int = 0
    """The tokens of all texts together."""
    resident_bytes: int = 0
    """The resident memory of the process, which grows with the first such request."""


class Embedded(Pooled, frozen=True, kw_only=True):
    """The vectors, in the order of their texts."""

    embeddings: tuple[tuple[float, ...], ...] = ()


class Rank(msgspec.Struct, frozen=True, kw_only=True):
    """Documents to score by how well they fit a query."""

    query: str
    documents: tuple[str, ...]
    raw: bool
    """Whether the scores are to be what the model's head says, instead of 0 to 1."""
    seconds: float
    """The time limit for the answer."""


class Ranked(Pooled, frozen=True, kw_only=True):
    """The scores, in the order of the documents."""

    scores: tuple[float, ...] = ()


class Tokenize(msgspec.Struct, frozen=True, kw_only=True):
    """A text to turn into tokens; the fields are those of the action."""

    text: str
    add_special: bool
    parse_special: bool
    pieces: bool


class Tokenized(ActorReply, frozen=True, kw_only=True):
    """The tokens of the text, with the text of each if that is wanted."""

    tokens: tuple[int, ...] = ()
    pieces: tuple[str, ...] | None = None


class Detokenize(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens to turn into text."""

    tokens: tuple[int, ...]


class Detokenized(ActorReply, frozen=True, kw_only=True):
    """The text of the tokens."""

    text: str = ""


class ApplyTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """A chat whose prompt is wanted, and nothing else."""

    request: GenerateTextRequest


class TemplateApplied(ActorReply, frozen=True, kw_only=True):
    """The prompt of the chat."""

    text: str = ""
    tokens: int = 0
    """How many tokens it is."""
    warnings: tuple[str, ...] = ()
    """What of the chat the model does not get as it was sent."""


REPLY_HEADER = "Suite-Reply"
