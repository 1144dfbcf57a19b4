"""A model or an adapter is not there, or cannot be loaded."""

from __future__ import annotations

from suite.errors.base import RETRY_AFTER_MS, SuiteError


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
