"""Any id can stand in a subject, as one token, and comes back as it was."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.errors import InvalidRequest
from suite.messages.subjects import MAX_ID_BYTES, Subjects, escape, unescape

IDS = st.text(min_size=1, max_size=MAX_ID_BYTES).filter(
    lambda text: not re.search("[\ud800-\udfff]", text) and len(text.encode()) <= MAX_ID_BYTES
)


@given(IDS)
def test_an_id_comes_back_from_its_token(text: str) -> None:
    assert unescape(escape(text)) == text


@given(IDS)
def test_a_token_is_one_token_of_safe_characters(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_%-]+", escape(text))


@given(IDS, IDS)
def test_different_ids_have_different_tokens(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@pytest.mark.parametrize("text", ["", "x" * (MAX_ID_BYTES + 1), "\u00e4" * 128, "\ud800"])
def test_what_cannot_be_an_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        escape(text)


def test_subjects_are_as_the_design_names_them() -> None:
    subjects = Subjects()
    assert subjects.action("load_model") == "suite.action.load_model"
    loaded = subjects.event("instance", ("box1", "smollm2"), "loaded")
    assert loaded == "suite.event.instance.box1.smollm2.loaded"
    assert subjects.aggregate("model", "Llama 3.2") == "suite.event.model.Llama%203%2E2.>"
    assert subjects.stream == "SUITE"
