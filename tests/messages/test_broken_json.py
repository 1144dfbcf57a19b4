"""What is said of a body that is no JSON: what is wrong, where, and what to do."""

from __future__ import annotations

import msgspec
import pytest

from suite.bus.decoding import parse
from suite.errors import InvalidJson
from suite.messages.broken_json import complaint

BROKEN = {
    b'{"a": [1, {"b": NaN}]}': "field 'a[1].b': JSON has no NaN",
    b'{"a": -Infinity}': "field 'a': JSON has no NaN and no Infinity",
    b'{"messages": [{"content": "\\ud800"}]}': "field 'messages[0].content': it has one half",
    b'{"a": "\\ud83d\\ud83d"}': "field 'a': it has one half of a character, \\ud83d",
    b'{"\\udc00": 1}': "it has one half of a character, \\udc00",
    b'["\\ude00", NaN]': "field '[0]': it has one half of a character, \\ude00",
    b'{"a": 1,}': "trailing comma in object (byte 8), line 1, column 9",
    b'{\n  "a": 1\n  "b": 2}': "line 3, column 3",
    b"\xef\xbb\xbf{}": "line 1, column 1",
    b'{"a": "\\ud800': "ends too early",
    b'{"a": ': "ends too early",
    b'"\xff"': "the body is not UTF-8 (invalid start byte): send one UTF-8 JSON object",
    b" \n": "the body is empty",
    b"[" * 200_000: "nested too deeply",
    b'{"a": NaN}' + b" " * (1 << 20): "line 1, column 7",
}


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:30]))
def test_a_broken_body_is_told_where_and_what_to_do(body: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError, RecursionError)) as raised:
        msgspec.json.decode(body)
    assert BROKEN[body] in complaint(body, raised.value)
    with pytest.raises(InvalidJson) as refused:
        parse(body)
    assert BROKEN[body] in refused.value.message
    refused.value.message.encode()
