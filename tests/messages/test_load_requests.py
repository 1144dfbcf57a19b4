"""What a request for a model may say of how it is loaded."""

from __future__ import annotations

from suite.actions.residency import load_model


def test_another_context_size_is_not_passed_over_in_silence() -> None:
    """The size is a setting of the model, so that no client reloads it under another one's hands."""
    for name in ("n_ctx", "num_ctx"):
        fields = {"model_id": "tiny", name: 8192}
        assert load_model.shape.warnings(fields) == (f"unknown field '{name}' ignored",)
