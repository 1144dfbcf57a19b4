"""Where each error can come from: the actions that answer with it, or the part that raises it.

Every code of `suite.errors` stands in one of these tables; a page is refused otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from suite.errors import error_classes
from suite.messages.jsonschema import action_types

ANY_ACTION: Final = (
    "invalid_json",
    "invalid_request",
    "disabled",
    "node_not_found",
    "node_lost",
    "node_stopping",
    "overloaded",
    "too_large",
    "unavailable",
    "internal",
)
"""What any action may answer."""

_MODEL: Final = (
    "model_not_found",
    "version_not_found",
    "version_gone",
    "model_file_gone",
    "model_file_incomplete",
    "model_file_invalid",
)
_APPEND: Final = ("log_not_writable", "unknown_outcome", "fenced", "log_gone", "no_leader")
_LOAD: Final = (
    *_MODEL,
    *_APPEND,
    "model_quarantined",
    "not_enough_memory",
    "load_failed",
    "draft_model_unfit",
    "load_cancelled",
    "model_unloading",
    "actor_crashed",
)
_QUERY: Final = ("read_model_behind", "read_model_unavailable")

BY_ACTION: Final[Mapping[str, tuple[str, ...]]] = {
    "load_model": (*_LOAD, "adapter_not_found", "adapter_mismatch"),
    "unload_model": ("model_not_found", *_APPEND),
    "pin_model": (*_MODEL, *_APPEND, "model_quarantined", "not_enough_memory"),
    "unpin_model": ("model_not_found", *_APPEND),
    "release_model": ("model_not_found", *_APPEND),
    "preload_models": (),
    "push_model": (*_MODEL, "cancelled"),
    "generate_text": (
        *_LOAD,
        "adapter_not_found",
        "adapter_mismatch",
        "cannot_generate",
        "empty_prompt",
        "prompt_too_long",
        "conversation_gone",
        "no_chat_template",
        "invalid_chat",
        "unsupported_content",
        "invalid_picture",
        "picture_not_allowed",
        "picture_unreachable",
        "picture_too_large",
        "invalid_grammar",
        "invalid_schema",
        "schema_not_supported",
        "generation_exists",
        "cancelled",
        "cannot_fill_in",
        "generation_failed",
    ),
    "embed": (*_LOAD, "empty_prompt", "prompt_too_long", "cannot_embed", "generation_failed"),
    "rerank": (*_LOAD, "prompt_too_long", "cannot_rerank", "generation_failed"),
    "tokenize": (*_LOAD, "generation_failed"),
    "detokenize": _LOAD,
    "apply_template": (*_LOAD, "empty_prompt", "no_chat_template", "invalid_chat", "unsupported_content"),
    "cancel_generation": ("generation_not_found",),
    "clear_kv_cache": ("model_not_found",),
    "get_model_status": ("model_not_found",),
    "select_model": ("model_not_found", *_QUERY),
    "predict_models": _QUERY,
    "record_usage": _APPEND,
    "usage": _QUERY,
    "log_performance_metric": ("conflict", *_APPEND, *_QUERY),
    "get_performance_metrics": _QUERY,
    "summary": _QUERY,
    "log_model_evaluation": ("conflict", "version_not_found", *_APPEND, *_QUERY),
    "get_model_evaluation_scores": ("version_not_found", *_QUERY),
    "retract_model_evaluation": ("evaluation_not_found", *_APPEND, *_QUERY),
    "compare_models": _QUERY,
    "run_benchmark": (*_LOAD, "conflict", "cannot_generate", "cancelled", *_QUERY),
    "get_benchmarks": _QUERY,
    "cancel_benchmark": ("benchmark_not_found", "conflict", *_APPEND),
    "get_errors": _QUERY,
    "get_error_groups": _QUERY,
    "get_request_statistics": _QUERY,
    "get_residency_timeline": _QUERY,
    "get_bet_statistics": _QUERY,
    "get_bets": _QUERY,
    "list_metrics": _QUERY,
    "get_metric_series": _QUERY,
    "get_model_quality": _QUERY,
    "replay_history": ("timeout",),
    "explain": ("model_not_found", "not_a_decision", "event_gone", "time_before_log", *_QUERY),
    "get_fleet": _QUERY,
    "rebuild_projection": ("conflict", "rebuild_would_lose", "read_model_unavailable"),
    "list_versions": ("model_not_found", "version_not_found", "version_gone", *_QUERY),
    "set_alias": (
        "alias_taken",
        "model_not_found",
        "version_not_found",
        "version_gone",
        "conflict",
        *_APPEND,
    ),
    "promote_alias": (
        "alias_not_found",
        "model_not_found",
        "version_not_found",
        "version_gone",
        "architecture_differs",
        "not_enough_memory",
        "gates_contradict",
        "promotion_running",
        "conflict",
        *_APPEND,
    ),
    "take_back_alias": ("alias_not_found", "nothing_to_take_back", "conflict", *_APPEND),
    "drain_node": ("cancelled", "timeout", *_APPEND),
    "create_key": ("key_exists", "conflict", *_APPEND),
    "revoke_key": ("key_not_found", "conflict", *_APPEND),
}
"""What an action may answer beyond that. An action that is not here answers nothing beyond that."""

ELSEWHERE: Final[Mapping[str, str]] = {
    "unknown_action": "old clients over ZeroMQ",
    "access_denied": "a client that connects, or reads the log",
    "no_service": "a client, when no node answers",
    "timeout": "a client that waits",
    "port_taken": "`suite serve`, `suite gateway`",
    "model_loading": "`suite gateway`, over HTTP",
    "unknown_path": "`suite gateway`, over HTTP",
    "method_not_allowed": "`suite gateway`, over HTTP",
    "data_dir_unusable": "`suite serve`",
    "data_dir_in_use": "`suite serve`",
    "node_name_taken": "`suite serve`",
    "serve_failed": "`suite demo`",
    "dependency_missing": "`suite serve`",
    "server_not_found": "`suite serve`",
    "cluster_file_unusable": "`suite serve`, `suite cluster`",
    "openssl_not_found": "`suite cluster`",
    "log_of_other_kind": "`suite serve`",
    "backup_unusable": "`suite restore`",
    "backup_differs": "`suite backup`",
    "log_exists": "`suite restore`",
    "server_unsuitable": "`suite serve`, or a client that reads the log",
    "invalid_configuration": "any command",
    "not_installed": "a command whose part is not installed",
    "legacy_database_unusable": "`suite import-legacy`",
    "user_exists": "`suite credentials`",
    "trace_not_found": "`suite trace`",
    "user_not_found": "`suite credentials`",
    "users_elsewhere": "`suite credentials`",
    "keys_missing": "`suite gateway`",
    "invalid_api_key": "the gateway",
    "expired_api_key": "the gateway",
    "key_not_permitted": "the gateway",
    "rate_limit_exceeded": "the gateway",
    "host_not_allowed": "the gateway",
    "origin_not_allowed": "the gateway",
    "slow_request": "the gateway",
    "hub_repository_not_found": "`suite pull`",
    "hub_model_not_found": "`suite pull`",
    "hub_choice_unclear": "`suite pull`",
    "hub_access_denied": "`suite pull`",
    "hub_unreachable": "`suite pull`",
    "digest_mismatch": "`suite pull`, `suite push`",
    "disk_full": "`suite pull`, `suite push`",
    "pull_running": "`suite pull`, `suite push`",
    "file_name_taken": "`suite push`, `suite backup`",
    "store_full": "`suite push`",
}
"""Errors that no action answers with, and where they come from."""


class UnplacedError(Exception):
    """An error or action is in `causes.py` and not in the code, or the other way round."""


def check() -> None:
    """Check that the tables and the code name the same. Raises UnplacedError."""
    placed = {*ANY_ACTION, *ELSEWHERE, *(code for codes in BY_ACTION.values() for code in codes)}
    _same("errors", placed, error_classes())
    actions = {action.name for action in action_types()}
    _same("actions", actions, actions.union(BY_ACTION))


def actions_with(code: str) -> list[str]:
    """The actions that may answer with an error beyond what any may."""
    return sorted(name for name, codes in BY_ACTION.items() if code in codes)


def _same(what: str, placed: Iterable[str], there: Iterable[str]) -> None:
    if differing := set(placed) ^ set(there):
        raise UnplacedError(
            f"{what} that only causes.py or only the code has: {', '.join(sorted(differing))}"
        )
