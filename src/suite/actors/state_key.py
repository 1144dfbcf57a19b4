"""What the saved states of a model's process are of: only states of the same key can be restored."""

from __future__ import annotations

from suite.engine.snapshots.folder import key_of
from suite.messages.actor import ActorSpec


def content_of(spec: ActorSpec) -> str:
    """The digest of the model's content or, while that is not known, an id that nothing else has."""
    return spec.model_digest or spec.instance_id


def state_key(spec: ActorSpec) -> str:
    """The key of the states of a process with this specification."""
    return key_of(
        content_of(spec),
        streams=spec.slots if spec.kv_cache == "separate" else 1,
        flash_attention=spec.flash_attention,
    )
