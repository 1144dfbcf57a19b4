"""Events about aliases and promotions, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from suite.domain.aliases import Target
from suite.domain.promotion import needed_evaluations
from suite.explanation.words import counted, listed, span
from suite.messages.events import (
    AliasEvent,
    AliasRemoved,
    AliasSet,
    CanaryStarted,
    Promoted,
    PromotionStarted,
    PromotionStopped,
    TakenBack,
)
from suite.messages.promotion import Estimate, Finding, Gates


def told(event: AliasEvent) -> Iterator[str]:
    """What happened, and why."""
    match event:
        case AliasSet():
            yield f"{event.alias} stands for {Target(event.model_id, event.version)}{_asked(event)}."
        case AliasRemoved():
            yield f"{event.alias} was removed{_asked(event)}: it stands for nothing any more in the log."
        case PromotionStarted():
            yield from _started(event)
        case CanaryStarted():
            share = f"{100 * event.canary_share:g} % of the requests for {event.alias}"
            yield f"{_what(event)} is ready{_on(event.node)}, and gets {share}."
        case Promoted():
            old = Target(event.old_model_id, event.old_version)
            ready = f"{_what(event)}, which is ready{_on(event.node)}"
            yield f"{event.alias} stands for {ready}; before, it stood for {old}."
            yield from _findings(event.findings)
        case PromotionStopped():
            yield f"{_what(event)} was not promoted to {event.alias}: {_why_stopped(event)}."
            yield from _findings(event.findings)
        case TakenBack():
            old = Target(event.old_model_id, event.old_version)
            yield f"{_what(event)} was taken back: {event.alias} stands for {old} again{_why_back(event)}."
            yield from _findings(event.findings)


def _started(event: PromotionStarted) -> Iterator[str]:
    old = Target(event.old_model_id, event.old_version)
    yield f"{_what(event)} is to be promoted to {event.alias}{_asked(event)}; until then {old} serves."
    if event.canary_share:
        yield f"Once it is ready, it gets {100 * event.canary_share:g} % of the requests."
    if event.gates is not None:
        yield from _needed(event.gates)
    if event.take_back:
        reasons = {"retraction": "an evaluation of it is retracted", "crash_loop": "it fails again and again"}
        yield f"It is taken back by itself if {' or if '.join(reasons[each] for each in event.take_back)}."


def _needed(gates: Gates) -> Iterator[str]:
    """What must be seen of it first."""
    if evaluations := needed_evaluations(gates):
        yield (
            f"It needs {counted(evaluations, 'evaluation')} at least, and is to meet its gates with a "
            f"confidence of {gates.confidence:g}."
        )
    canary = [
        *([counted(gates.canary_requests, "request")] if gates.canary_requests is not None else []),
        *([span(gates.canary_seconds)] if gates.canary_seconds is not None else []),
    ]
    if canary:
        yield f"It has its share for {listed(canary)} at least."


def _why_stopped(event: PromotionStopped) -> str:
    match event.reason:
        case "requested":
            return f"{event.requested_by or 'somebody'} ended it"
        case "gates":
            return f"evaluations show that it does not meet {event.detail or 'its gates'}"
        case "crash_loop":
            return f"{event.detail}, and is quarantined"
        case "load_failed":
            return f"it could not be loaded: {event.detail}"
        case "gone" | "not_enough_memory" | "waited_too_long":
            return event.detail


def _why_back(event: TakenBack) -> str:
    match event.reason:
        case "requested":
            return f", as {event.requested_by or 'somebody'} asked"
        case "retraction":
            return f", because {event.detail}"
        case "crash_loop":
            return f", because {event.detail}"


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    for each in findings:
        if each.found is not None:
            yield f"{each.gate} = {each.needed:g} is {each.verdict}: there were {each.found:.4g}."
        elif each.gate != "evaluations":
            yield f"{each.gate} = {each.needed:g} is {each.verdict}{_evidence(each)}."


def _evidence(finding: Finding) -> str:
    parts = [
        f"{_estimate(each)} over {counted(each.evaluations, 'evaluation')} of the {name} version"
        for name, each in (("new", finding.new), ("old", finding.old))
        if each is not None
    ]
    return f": {listed(parts)}" if parts else ""


def _estimate(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.4g}"
    return f"{estimate.mean:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"


def _what(event: PromotionStarted | CanaryStarted | Promoted | PromotionStopped | TakenBack) -> str:
    return str(Target(event.model_id, event.version))


def _on(node: str) -> str:
    return f" on {node}" if node else ""


def _asked(event: AliasSet | AliasRemoved | PromotionStarted) -> str:
    return f", as {event.requested_by} asked" if event.requested_by else ""
