"""The errors that callers can get: a class for each cause, a stable ``code``, a message that says what to do.

A handler raises; the bus answers ``{"status": "error", "code": ..., "message": ...}``; the client raises
the same class again::

    raise ModelNotFound("no model 'phi-9': see the list of models")
"""

from __future__ import annotations

from copy import copy
from typing import ClassVar, Self

RETRY_AFTER_MS = 1000
"""When to try again if the time until that succeeds is unknown."""
MESSAGE_CHARACTERS = 4096
"""How much of a message is kept. It may repeat what a client sent, which may have a megabyte; and a reply
that is larger than a message of NATS may be would never arrive."""


def shortened(text: str, most: int) -> str:
    """The text in `most` characters, without its middle if it has more: what to do stands at its end."""
    if len(text) <= most:
        return text
    gap, end = " ... ", most // 4
    return f"{text[: most - end - len(gap)]}{gap}{text[-end:]}"


class SuiteError(Exception):
    """The root: something was refused or failed, and the message says what to do about it."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    """The HTTP status code for the error, sent as ``Nats-Service-Error-Code``."""

    def __init__(self, message: str | None = None, **details: str | int | float) -> None:
        super().__init__(shortened(message or (type(self).__doc__ or self.code).strip(), MESSAGE_CHARACTERS))
        self.details = details
        """Additional fields of the error reply, such as ``event_id``."""
        self.node = ""
        """The node that refused; empty if it is this process, or not known."""

    @property
    def message(self) -> str:
        """What happened and what to do."""
        return str(self.args[0])

    def copy(self) -> Self:
        """One that says the same. Of an error that is kept, raise copies: it would gather tracebacks."""
        return copy(self)


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


class UnknownPath(SuiteError):
    """There is nothing under this path: /openapi.json lists what there is."""

    code = "unknown_path"
    status = 404


class WrongMethod(SuiteError):
    """This path takes another method: /openapi.json says which."""

    code = "method_not_allowed"
    status = 405


class Disabled(SuiteError):
    """The action is switched off on this node: the message names the setting."""

    code = "disabled"
    status = 403


class ModelNotFound(SuiteError):
    """There is no such model: see the list of models."""

    code = "model_not_found"
    status = 404


class AdapterNotFound(SuiteError):
    """There is no such adapter: see the list of models, which has adapters too."""

    code = "adapter_not_found"
    status = 404


class AdapterMismatch(SuiteError):
    """The adapter cannot change this model: choose one that was made for it."""

    code = "adapter_mismatch"


class VersionNotFound(SuiteError):
    """The model has no such version: see `suite versions MODEL`."""

    code = "version_not_found"
    status = 404


class VersionGone(SuiteError):
    """The content of this version is gone from disk: use another one, or put its file back."""

    code = "version_gone"
    status = 410


class AliasNotFound(SuiteError):
    """There is no such alias: `suite alias` lists those there are."""

    code = "alias_not_found"
    status = 404


class AliasTaken(SuiteError):
    """This name is the id of a model: choose another one for the alias."""

    code = "alias_taken"
    status = 409


class PromotionRunning(SuiteError):
    """Another version is being promoted to this alias: wait for its end, or end it."""

    code = "promotion_running"
    status = 409


class NothingToTakeBack(SuiteError):
    """Nothing was promoted to this alias: there is no version to go back to."""

    code = "nothing_to_take_back"
    status = 409


class ArchitectureDiffers(SuiteError):
    """The version is of another architecture than the one that serves: say that it may be."""

    code = "architecture_differs"
    status = 409


class GatesContradict(SuiteError):
    """No version could meet these gates: the message says which of them do not go together."""

    code = "gates_contradict"
    status = 400


class ModelFileGone(SuiteError):
    """The model's file is no longer where it was: put it back, or choose another model."""

    code = "model_file_gone"
    status = 410


class ModelFileInvalid(SuiteError):
    """The file is not a GGUF model that can be loaded: replace it."""

    code = "model_file_invalid"
    status = 422


class ModelFileIncomplete(ModelFileInvalid):
    """The model's file is not whole yet: wait until it is, and it is served by itself."""

    code = "model_file_incomplete"
    status = 409


class LoadFailed(SuiteError):
    """llama.cpp could not load the model."""

    code = "load_failed"


class DraftModelUnfit(SuiteError):
    """The draft model of a model cannot guess its tokens: choose one of the same family, or none."""

    code = "draft_model_unfit"
    status = 409


class LoadCancelled(SuiteError):
    """The load was cancelled by an unload before the model was ready."""

    code = "load_cancelled"
    status = 409


class Quarantined(SuiteError):
    """The model failed again and again and is left alone for a while: the message says until when and why."""

    code = "model_quarantined"
    status = 503

    def __init__(self, message: str | None = None, *, retry_after_ms: int = RETRY_AFTER_MS) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        """When it may be loaded again."""


class NotEnoughMemory(SuiteError):
    """There is no memory for the model, or was none while it could wait: the message says what uses it."""

    code = "not_enough_memory"
    status = 507


class ModelLoading(SuiteError):
    """The model is still being loaded: send the request again after the time that `Retry-After` says."""

    code = "model_loading"
    status = 503

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_ms: int = RETRY_AFTER_MS,
        state: str = "loading",
        progress: float | None = None,
        eta_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        """When it is likely to be loaded."""
        self.loading = {"state": state, "progress": progress, "eta_seconds": eta_seconds}
        """How far it is: ``waiting`` for memory or ``loading``, 0 to 1, and the seconds that are left."""


class ModelUnloading(SuiteError):
    """The model is being unloaded: try again."""

    code = "model_unloading"
    status = 409


class Overloaded(SuiteError):
    """The queue is full: try again later."""

    code = "overloaded"
    status = 429

    def __init__(self, message: str | None = None, *, retry_after_ms: int = RETRY_AFTER_MS) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        """When there is likely to be room again."""


class GenerationNotFound(SuiteError):
    """No generation with this id is running: it has ended, or it never began."""

    code = "generation_not_found"
    status = 404


class GenerationExists(SuiteError):
    """A generation with this id is running already: choose another id."""

    code = "generation_exists"
    status = 409


class Cancelled(SuiteError):
    """The generation was cancelled before it had begun."""

    code = "cancelled"
    status = 499


class GenerationFailed(SuiteError):
    """llama.cpp could not go on with this generation."""

    code = "generation_failed"


class ActorCrashed(SuiteError):
    """The process that ran the model died: send the request again, which loads the model again."""

    code = "actor_crashed"
    status = 502


class NodeLost(SuiteError):
    """The node stopped answering: send the request again; what has an id is done only once."""

    code = "node_lost"
    status = 504


class TraceNotFound(SuiteError):
    """No span that is kept here and no event of the log belongs to this trace."""

    code = "trace_not_found"
    status = 404


class NodeNotFound(SuiteError):
    """No node of this name is there: `suite health` shows those that are."""

    code = "node_not_found"
    status = 404


class NodeStopping(SuiteError):
    """The node is shutting down: send the request to another one, or again when it is back."""

    code = "node_stopping"
    status = 503


class Fenced(SuiteError):
    """Another process has taken over this node's name: this one stops."""

    code = "fenced"
    status = 409


class Conflict(SuiteError):
    """Somebody else wrote to this aggregate first: read it again and decide again."""

    code = "conflict"
    status = 409


class UnknownOutcome(SuiteError):
    """The connection was lost while storing an event: look for the event by its id, or send it again."""

    code = "unknown_outcome"
    status = 504


class LogNotWritable(SuiteError):
    """The log takes no events at the moment, so nothing was stored: the service's health says why."""

    code = "log_not_writable"
    status = 507


class Unavailable(SuiteError):
    """NATS cannot be reached: check the address and that the server runs, then try again."""

    code = "unavailable"
    status = 503


class LogGone(Unavailable):
    """The stream that holds the log was deleted, or is another one now: start the node again."""

    code = "log_gone"


class NoLeader(Unavailable):
    """Too few servers of the log are there, so nothing was stored: the service's health names the missing."""

    code = "no_leader"


class AccessDenied(SuiteError):
    """NATS refused the credentials: check user and password, or connection.json."""

    code = "access_denied"
    status = 403


class CredentialsRefused(AccessDenied, Unavailable):
    """NATS refuses the credentials since the connection was lost, and is asked again and again.

    A client gets it as AccessDenied. For what waits until NATS is back, it is one more way to be unavailable.
    """


class UserExists(SuiteError):
    """There is a user of this name already: choose another name."""

    code = "user_exists"
    status = 409


class UserNotFound(SuiteError):
    """There is no user of this name: `suite credentials` lists those there are."""

    code = "user_not_found"
    status = 404


class UsersElsewhere(SuiteError):
    """The service uses a NATS server of your own, which has its own users: see docs/security.md."""

    code = "users_elsewhere"
    status = 409


class InvalidApiKey(SuiteError):
    """The gateway does not know this key, or none was sent: `suite keys create` makes one."""

    code = "invalid_api_key"
    status = 401


class ExpiredApiKey(SuiteError):
    """The time of this key is over: `suite keys create` makes another one."""

    code = "expired_api_key"
    status = 401


class KeyNotPermitted(SuiteError):
    """This key may not do that: the message says what it may."""

    code = "key_not_permitted"
    status = 403


class RateLimited(SuiteError):
    """This key has used what it may use in a minute: try again when the message says."""

    code = "rate_limit_exceeded"
    status = 429

    def __init__(self, message: str | None = None, *, retry_after_ms: int = RETRY_AFTER_MS) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        """When a request is let through again."""


class KeyExists(SuiteError):
    """There is a key of this name already: choose another name, or revoke it first."""

    code = "key_exists"
    status = 409


class KeyNotFound(SuiteError):
    """There is no key of this name: `suite keys` lists those there are."""

    code = "key_not_found"
    status = 404


class KeysMissing(SuiteError):
    """A gateway that others can reach needs keys: `suite keys create NAME` makes one."""

    code = "keys_missing"
    status = 409


class HostNotAllowed(SuiteError):
    """The request names another host than this one: call the gateway by its address, or use keys."""

    code = "host_not_allowed"
    status = 403


class OriginNotAllowed(SuiteError):
    """A page of this origin may not use the gateway: allow it with --cors-origin."""

    code = "origin_not_allowed"
    status = 403


class SlowRequest(SuiteError):
    """The request did not come in time: send it without pauses."""

    code = "slow_request"
    status = 408


class EvaluationNotFound(SuiteError):
    """No evaluation has this id: see the list of evaluations."""

    code = "evaluation_not_found"
    status = 404


class BenchmarkNotFound(SuiteError):
    """No benchmark has this id: see the list of benchmarks."""

    code = "benchmark_not_found"
    status = 404


class NotADecision(SuiteError):
    """This event decides nothing about memory: explain a model to see the events that do."""

    code = "not_a_decision"
    status = 400


class EventGone(SuiteError):
    """This event is not in the log any more: it has expired, or was removed."""

    code = "event_gone"
    status = 410


class TimeBeforeLog(SuiteError):
    """The log knows nothing of this time: ask for one after its beginning."""

    code = "time_before_log"
    status = 404


class ReadModelBehind(SuiteError):
    """The read model does not have this event yet: try again, or ask without min_seq."""

    code = "read_model_behind"
    status = 503


class ReadModelUnavailable(SuiteError):
    """The read model cannot be read: the service's health says why."""

    code = "read_model_unavailable"
    status = 503


class RebuildWouldLose(SuiteError):
    """The log has lost events that the read model has: rebuild with force to have what the log has."""

    code = "rebuild_would_lose"
    status = 409


class RequestTimeout(SuiteError):
    """No answer within the time allowed: allow more, or look at the service's health."""

    code = "timeout"
    status = 504


class NoService(SuiteError):
    """Nobody serves this subject: start the service with `suite serve`."""

    code = "no_service"
    status = 503


class TooLarge(SuiteError):
    """The message is over the server's max_payload: send less."""

    code = "too_large"
    status = 413


class PortTaken(SuiteError):
    """The port is in use: choose another, or leave it out and a free one is taken."""

    code = "port_taken"


class DataDirUnusable(SuiteError):
    """The data directory cannot be written: choose another with --data-dir or mend its rights."""

    code = "data_dir_unusable"


class DataDirInUse(SuiteError):
    """Another suite serves from this data directory: stop it, or choose another with --data-dir."""

    code = "data_dir_in_use"
    status = 409


class NodeNameTaken(SuiteError):
    """Another process of this node name answers: choose another --node, or pass --take-over."""

    code = "node_name_taken"
    status = 409


class ServeFailed(SuiteError):
    """The service did not start: the message has its last output."""

    code = "serve_failed"


class DependencyMissing(SuiteError):
    """A service that this one needs does not answer: start it, or do not wait for dependencies."""

    code = "dependency_missing"
    status = 503


class NotInstalled(SuiteError):
    """A part that is not installed is needed: the message has the command that installs it."""

    code = "not_installed"


class ServerNotFound(SuiteError):
    """There is no nats-server 2.12 or newer on the PATH: install model-manager-suite[serve]."""

    code = "server_not_found"


class ClusterFileUnusable(SuiteError):
    """The cluster file cannot be read or written: `suite cluster create` makes one."""

    code = "cluster_file_unusable"


class OpensslNotFound(SuiteError):
    """The program openssl, which makes a cluster's key, is missing: install it, or run this elsewhere."""

    code = "openssl_not_found"


class LogOfOtherKind(SuiteError):
    """The log in the data directory is a single server's, and a cluster is to be joined, or the reverse."""

    code = "log_of_other_kind"


class BackupUnusable(SuiteError):
    """The file is no backup of the log, or it was cut off or altered: take another one."""

    code = "backup_unusable"


class BackupDiffers(SuiteError):
    """The read models of the service are not those that its backup gives: see `suite health`."""

    code = "backup_differs"


class LogExists(SuiteError):
    """There is a log already, and nothing was changed: restore into an empty directory or another NATS."""

    code = "log_exists"


class ServerUnsuitable(SuiteError):
    """The NATS server lacks something that the log needs."""

    code = "server_unsuitable"


class InvalidConfiguration(SuiteError):
    """The configuration is wrong: the message has the path to the value."""

    code = "invalid_configuration"
    status = 400


class HubRepositoryNotFound(SuiteError):
    """The Hugging Face Hub has no such repository, or it is private: check the name, or set HF_TOKEN."""

    code = "hub_repository_not_found"
    status = 404


class HubModelNotFound(SuiteError):
    """The repository has no such GGUF file: the message lists those that it has."""

    code = "hub_model_not_found"
    status = 404


class HubChoiceUnclear(SuiteError):
    """The repository has several models: name one of those that the message lists."""

    code = "hub_choice_unclear"
    status = 400


class HubAccessDenied(SuiteError):
    """The Hugging Face Hub refuses access: accept the terms of the repository, and set HF_TOKEN."""

    code = "hub_access_denied"
    status = 403


class HubUnreachable(SuiteError):
    """The Hugging Face Hub cannot be reached: check the network and HF_ENDPOINT, then try again."""

    code = "hub_unreachable"
    status = 503


class DigestMismatch(SuiteError):
    """What has come is not what it should be, and was removed: pull or push it again."""

    code = "digest_mismatch"
    status = 422


class DiskFull(SuiteError):
    """There is no space left on the disk: make room, then try again; it goes on where it stopped."""

    code = "disk_full"
    status = 507


class PullRunning(SuiteError):
    """Another process is downloading this file: wait for it."""

    code = "pull_running"
    status = 409


class FileNameTaken(SuiteError):
    """Another file has the name that the model's file would get, and stays: rename or remove it first."""

    code = "file_name_taken"
    status = 409


class StoreFull(SuiteError):
    """The object store that files travel through is full: wait until other transfers have ended."""

    code = "store_full"
    status = 507


class LegacyDatabaseUnusable(SuiteError):
    """The file is not a model_evaluation.db of an older service, or cannot be read."""

    code = "legacy_database_unusable"
    status = 422


def error_classes() -> dict[str, type[SuiteError]]:
    """All error classes by their codes. A class without a code of its own has that of its parent."""
    kinds: list[type[SuiteError]] = [SuiteError]
    found: dict[str, type[SuiteError]] = {}
    while kinds:
        kind = kinds.pop()
        if "code" in vars(kind):
            found[kind.code] = kind
        kinds += kind.__subclasses__()
    return found


def error_from_reply(code: str, message: str, *, retry_after_ms: int | None = None) -> SuiteError:
    """The error of a reply with ``status: error``; an unknown code gives the root class."""
    kind = error_classes().get(code, SuiteError)
    if issubclass(kind, Overloaded | Quarantined) and retry_after_ms is not None:
        return kind(message, retry_after_ms=retry_after_ms)
    return kind(message)
