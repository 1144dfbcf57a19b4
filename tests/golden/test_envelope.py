"""An event comes out of its headers and body as it went in, whatever its ids are made of."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from suite.messages.envelope import Envelope, Recorded
from suite.messages.events import ModelRemoved
from suite.messages.subjects import Subjects

_TIME = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
_ENVELOPE = Envelope(
    id="01890a5d-ac96-774b-bcce-b302099a8057",
    source="/node/box1",
    time=_TIME,
    data=ModelRemoved(model_id="Llama 3.2", node="box1"),
)


def test_the_headers_are_those_of_cloudevents_and_no_more() -> None:
    assert _ENVELOPE.subject(Subjects()) == "suite.event.model.Llama%203%2E2.removed"
    assert _ENVELOPE.headers() == {
        "Nats-Msg-Id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "ce-specversion": "1.0",
        "ce-id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "ce-type": "suite.model.removed.v1",
        "ce-source": "/node/box1",
        "ce-time": "2026-03-01T12:30:15.250000Z",
    }


@given(id=st.text(), source=st.text(), correlation=st.none() | st.text(), causation=st.none() | st.text())
def test_any_text_survives_the_headers_and_none_can_forge_one(
    id: str, source: str, correlation: str | None, causation: str | None
) -> None:
    envelope = msgspec.structs.replace(
        _ENVELOPE, id=id, source=source, correlation_id=correlation, causation_id=causation
    )
    headers = envelope.headers()
    assert all(value.isascii() and "\n" not in value and "\r" not in value for value in headers.values())
    read = Recorded.read(7, envelope.subject(Subjects()), headers, envelope.body())
    assert (read.id, read.source, read.correlation_id, read.causation_id) == (
        id,
        source,
        correlation,
        causation,
    )
    assert (read.seq, read.time, read.data) == (7, _TIME, envelope.data)
