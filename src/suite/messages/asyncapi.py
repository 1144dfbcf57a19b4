"""Generates the AsyncAPI 3.0 document of the interface: actions, their replies and signals, and events."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from suite.messages import events, signals
from suite.messages.actions.base import ErrorReply
from suite.messages.jsonschema import ActionTypes, Document, action_types, components, event_types
from suite.messages.subjects import Subjects
from suite.version import __version__

SIGNALS: Mapping[str, tuple[type[signals.Signal], ...]] = {
    "load_model": (signals.Progress, signals.Heartbeat),
    "rebuild_projection": (signals.Folded, signals.Heartbeat),
    "drain_node": (signals.Draining, signals.Heartbeat),
    "push_model": (signals.Copying, signals.Heartbeat),
    "run_benchmark": (signals.Benchmarking, signals.Heartbeat),
    "follow_benchmark": (signals.Benchmarking, signals.Heartbeat),
    "replay_history": (signals.Replaying, signals.Heartbeat),
    "generate_text": (signals.Accepted, signals.Progress, signals.Chunk, signals.Heartbeat),
}
"""The signals that an action with ``stream: true`` sends before its reply."""


def asyncapi(subjects: Subjects | None = None) -> Document:
    """The interface in AsyncAPI 3.0, as seen by the service: it receives requests and sends events."""
    subjects = subjects or Subjects()
    kinds: list[Any] = [kind for action in action_types() for kind in (action.request, action.reply)]
    _, schemas = components(
        [*kinds, *event_types(), signals.AnySignal, ErrorReply], "#/components/schemas/{name}"
    )
    messages: Document = {"error": _message(ErrorReply, headers=_ERROR_HEADERS)}
    channels: Document = {}
    operations: Document = {}
    for signal in sorted(signals.Signal.__subclasses__(), key=_tag):
        messages[f"signal.{_tag(signal)}"] = _message(signal)
    for action in action_types():
        _add_action(action, subjects, messages, channels, operations)
    for aggregate in sorted({kind.aggregate for kind in event_types()}):
        _add_aggregate(aggregate, subjects, messages, channels, operations)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Model Manager Suite",
            "version": __version__,
            "description": (
                "Actions are NATS requests with JSON bodies to the micro service `suite`; facts are "
                "CloudEvents in the JetStream stream. The first subject token is configurable."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def _tag(signal: type[signals.Signal]) -> str:
    return str(signal.__struct_config__.tag)


def _ref(*path: str) -> Document:
    return {"$ref": "#/" + "/".join(path)}


def _message(kind: type[msgspec.Struct], *, headers: Document | None = None) -> Document:
    summary = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
    message: Document = {"name": kind.__name__, "summary": summary}
    if headers is not None:
        message["headers"] = headers
    return message | {"payload": _ref("components", "schemas", kind.__name__)}


def _add_action(
    action: ActionTypes, subjects: Subjects, messages: Document, channels: Document, operations: Document
) -> None:
    """Add one action: its subject, and the inbox that receives signals and the final reply."""
    request, reply = f"{action.name}.request", f"{action.name}.reply"
    messages[request] = _message(action.request)
    messages[reply] = _message(action.reply)
    answers = [reply, "error", *(f"signal.{_tag(signal)}" for signal in SIGNALS.get(action.name, ()))]
    channels[f"action.{action.name}"] = {
        "address": subjects.action(action.name),
        "messages": {request: _ref("components", "messages", request)},
    }
    channels[reply] = {
        "address": None,
        "description": (
            "The reply subject of the request. With `stream: true`: signals, then the reply or an error, "
            "then one empty message (ADR-47)."
            if action.name in SIGNALS
            else "The reply subject of the request."
        ),
        "messages": {name: _ref("components", "messages", name) for name in answers},
    }
    operations[action.name] = {
        "action": "receive",
        "summary": messages[request]["summary"],
        "channel": _ref("channels", f"action.{action.name}"),
        "messages": [_ref("channels", f"action.{action.name}", "messages", request)],
        "reply": {
            "channel": _ref("channels", reply),
            "messages": [_ref("channels", reply, "messages", name) for name in answers],
        },
    }


class _FieldNames:
    """Stands in for an event, to find out which fields its ids are."""

    def __getattr__(self, name: str) -> str:
        return name


def _add_aggregate(
    aggregate: str, subjects: Subjects, messages: Document, channels: Document, operations: Document
) -> None:
    """Add one aggregate: the subjects of its facts."""
    kinds = [kind for kind in event_types() if kind.aggregate == aggregate]
    getter = inspect.getattr_static(kinds[0], "ids")
    ids: tuple[str, ...] = getter.fget(_FieldNames())
    for kind in kinds:
        messages[kind.type] = _message(kind, headers=_event_headers(kind))
    channel = f"event.{aggregate}"
    channels[channel] = {
        "address": ".".join((subjects.root, "event", aggregate, *(f"{{{name}}}" for name in ids), "{fact}")),
        "messages": {kind.type: _ref("components", "messages", kind.type) for kind in kinds},
        "parameters": {
            **{name: {"description": "Percent-encoded outside letters, digits, - and _."} for name in ids},
            "fact": {"enum": sorted({kind.fact for kind in kinds})},
        },
    }
    operations[f"append.{aggregate}"] = {
        "action": "send",
        "summary": f"Append a fact about the {aggregate} to the log.",
        "channel": _ref("channels", channel),
        "messages": [_ref("channels", channel, "messages", kind.type) for kind in kinds],
    }


_TEXT: Document = {"type": "string"}
_ERROR_HEADERS: Document = {
    "type": "object",
    "properties": {"Nats-Service-Error": _TEXT, "Nats-Service-Error-Code": _TEXT},
}


def _event_headers(kind: type[events.Event]) -> Document:
    names = ("Nats-Msg-Id", "ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time")
    fixed: Mapping[str, Document] = {
        "ce-specversion": {"const": "1.0"},
        "ce-type": {"const": kind.type},
        "ce-time": {"type": "string", "format": "date-time"},
    }
    optional = ("ce-correlationid", "ce-causationid", "traceparent")
    return {
        "type": "object",
        "properties": {name: fixed.get(name, _TEXT) for name in (*names, *optional)},
        "required": list(names),
    }
