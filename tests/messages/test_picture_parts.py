"""Pictures in requests: the same one in whichever form it is sent."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest

from suite.client.attachments import without_pictures
from suite.messages.actions.chat import ContentPart

BASE64 = "aGVsbG8="
URL = f"data:image/png;base64,{BASE64}"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "data": BASE64},
        {"type": "image", "data": URL},
        {"type": "image_url", "image_url": URL},
        {"type": "image_url", "image_url": {"url": URL}},
    ],
)
def test_a_picture_is_the_same_in_each_form(part: dict[str, object]) -> None:
    assert msgspec.convert(part, ContentPart).picture == BASE64
    split = without_pictures({"messages": [{"role": "user", "content": [part]}]})
    assert split is not None and dict(split.files) == {sha256(b"hello").hexdigest(): b"hello"}
