"""What is said of a body that is no JSON: what is wrong, where, and what to do."""

from __future__ import annotations

import msgspec
import pytest

from suite.bus.decoding import parse
from suite.errors import InvalidJson, InvalidRequest
from suite.messages.broken_json import refusal
from suite.messages.nesting import MOST_LEVELS

BROKEN = {
    b'{"a": [1, {"b": NaN}]}': "(field 'a[1].b' is NaN or infinite): JSON has no NaN",
    b'{"a": -Infinity}': "(field 'a' is NaN or infinite)",
    b"NaN": "(it is NaN or infinite)",
    b'{"a": 1,}': "trailing comma in object (byte 8), line 1, column 9",
    b'{\n  "a": 1\n  "b": 2}': "line 3, column 3",
    b"\xef\xbb\xbf{}": "line 1, column 1",
    b'{"a": "\\ud800': "ends too early",
    b'{"a": ': "ends too early",
    b'"\xff"': "it is not UTF-8: invalid start byte",
    b" \n": "it is empty",
    b"[" * 200_000: "nested too deeply",
    b'{"a": NaN}' + b" " * (1 << 20): "line 1, column 7",
    b'{"a": [' + b"1," * 20_000 + b"NaN]}": "line 1, column 40008",  # what is behind so many is not searched
}
HALVES = {
    b'{"messages": [{"content": "\\ud800"}]}': "field 'messages[0].content': half",
    b'{"a": "\\ud83d\\ud83d"}': "field 'a': half",
    b'{"\\udc00": 1}': "field '?': half",
    b'["\\ude00", NaN]': "field '[0]': half",
}


@pytest.mark.parametrize("body", [*BROKEN, *HALVES], ids=lambda body: repr(body[:30]))
def test_a_broken_body_is_told_where_and_what_to_do(body: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError, RecursionError)) as raised:
        msgspec.json.decode(body)
    error = refusal(body, raised.value)
    assert type(error) is (InvalidRequest if body in HALVES else InvalidJson)
    assert (BROKEN | HALVES)[body] in error.message
    error.message.encode()
    with pytest.raises(type(error)) as refused:
        parse(body)
    if body.strip():
        assert refused.value.message == error.message


def test_json_is_nested_no_deeper_than_all_who_read_it_can_follow() -> None:
    whole = parse(b'{"a":' * MOST_LEVELS + b"1" + b"}" * MOST_LEVELS)
    assert msgspec.json.decode(msgspec.json.encode(whole)) == whole
    parse(b'{"a": "%s", "b": [%s{}]}' % (b"[" * 1000, b"[]," * 1000))
    for deep in (b'{"a":%s}' % (b"[" * MOST_LEVELS + b"]" * MOST_LEVELS), b'{"a":' * 950 + b"1" + b"}" * 950):
        with pytest.raises(InvalidJson, match="nested too deeply"):
            parse(deep)
    with pytest.raises(InvalidRequest, match="not an object"):
        parse(b'"%s"' % (b"[" * 1000))
    parse(b'{"a": "\\"%s", "b\\\\": "%s"}' % (b"[" * 1000, b"{" * 1000))
