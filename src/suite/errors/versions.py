"""Versions, aliases and promotions, and the evaluations and benchmarks that decide about them."""

from __future__ import annotations

from suite.errors.base import SuiteError


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


class EvaluationNotFound(SuiteError):
    """No evaluation has this id: see the list of evaluations."""

    code = "evaluation_not_found"
    status = 404


class BenchmarkNotFound(SuiteError):
    """No benchmark has this id: see the list of benchmarks."""

    code = "benchmark_not_found"
    status = 404
