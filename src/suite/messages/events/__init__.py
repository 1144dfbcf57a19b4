"""The facts in the log, in past tense. Each class is one version of one fact; none is changed or removed.

A new version is a new class, with an upcaster from the version before (`upcasters.py`)::

    @event("instance", "loaded")            # type name suite.instance.loaded.v1
    class InstanceLoaded(Event): ...

One module for each aggregate, named like it; all are imported from here.
"""

from suite.messages.events.admission import AdmissionEvent, RequestsRefused, WaitEnded, WaitStarted
from suite.messages.events.alias import (
    AliasEvent,
    AliasRemoved,
    AliasSet,
    CanaryStarted,
    Promoted,
    PromotionEnd,
    PromotionEvent,
    PromotionStarted,
    PromotionStopped,
    TakenBack,
    TakenBackReason,
)
from suite.messages.events.base import REGISTRY, Event, UnknownEvent, event
from suite.messages.events.benchmark import (
    BenchmarkCancelled,
    BenchmarkEvent,
    BenchmarkFailed,
    BenchmarkFinished,
    BenchmarkProgressed,
    BenchmarkStarted,
)
from suite.messages.events.breaker import (
    BreakerClosed,
    BreakerEvent,
    BreakerHalfOpened,
    BreakerKind,
    BreakerOpened,
)
from suite.messages.events.error import ErrorReported, Severity
from suite.messages.events.evaluation import EvaluationEvent, EvaluationLogged, EvaluationRetracted
from suite.messages.events.instance import (
    CrashReason,
    InstanceCrashed,
    InstanceEvent,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    LoadFailureReason,
    UnloadReason,
)
from suite.messages.events.key import KeyCreated, KeyEndpoint, KeyEvent, KeyRevoked
from suite.messages.events.metric import MetricLogged
from suite.messages.events.model import (
    AppliedAdapter,
    ModelEvent,
    ModelPinned,
    ModelQuarantined,
    ModelRegistered,
    ModelReleased,
    ModelRemoved,
    ModelUnpinned,
    ReleaseReason,
)
from suite.messages.events.node import (
    NodeDraining,
    NodeEvent,
    NodeLifeEvent,
    NodeLost,
    NodeResumed,
    NodeStarted,
    NodeStopped,
)
from suite.messages.events.prediction import (
    BetOutcome,
    BetReason,
    Loser,
    PredictionEvent,
    PredictionMade,
    PredictionSettled,
)
from suite.messages.events.usage import Generated, Outcome, UsageRecorded

__all__ = [
    "REGISTRY",
    "AdmissionEvent",
    "AliasEvent",
    "AliasRemoved",
    "AliasSet",
    "AppliedAdapter",
    "BenchmarkCancelled",
    "BenchmarkEvent",
    "BenchmarkFailed",
    "BenchmarkFinished",
    "BenchmarkProgressed",
    "BenchmarkStarted",
    "BetOutcome",
    "BetReason",
    "BreakerClosed",
    "BreakerEvent",
    "BreakerHalfOpened",
    "BreakerKind",
    "BreakerOpened",
    "CanaryStarted",
    "CrashReason",
    "ErrorReported",
    "EvaluationEvent",
    "EvaluationLogged",
    "EvaluationRetracted",
    "Event",
    "Generated",
    "InstanceCrashed",
    "InstanceEvent",
    "InstanceGrew",
    "InstanceLoadFailed",
    "InstanceLoadStarted",
    "InstanceLoaded",
    "InstanceUnloaded",
    "KeyCreated",
    "KeyEndpoint",
    "KeyEvent",
    "KeyRevoked",
    "LoadFailureReason",
    "Loser",
    "MetricLogged",
    "ModelEvent",
    "ModelPinned",
    "ModelQuarantined",
    "ModelRegistered",
    "ModelReleased",
    "ModelRemoved",
    "ModelUnpinned",
    "NodeDraining",
    "NodeEvent",
    "NodeLifeEvent",
    "NodeLost",
    "NodeResumed",
    "NodeStarted",
    "NodeStopped",
    "Outcome",
    "PredictionEvent",
    "PredictionMade",
    "PredictionSettled",
    "Promoted",
    "PromotionEnd",
    "PromotionEvent",
    "PromotionStarted",
    "PromotionStopped",
    "ReleaseReason",
    "RequestsRefused",
    "Severity",
    "TakenBack",
    "TakenBackReason",
    "UnknownEvent",
    "UnloadReason",
    "UsageRecorded",
    "WaitEnded",
    "WaitStarted",
    "event",
]
