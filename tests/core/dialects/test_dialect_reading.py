import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.dialects.durations import keep_alive_ms, parse_duration
from ollamamax.core.dialects.reading import Fields, decode_base64, decode_object, to_json
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import FOREVER_MS

STRUCT = "ChatRequest"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"null", {}),
        (b'  {"a": 1} {"b": 2}', {"a": 1}),
        (b'{"a": 1} and more', {"a": 1}),
        (
            b'{"a": "\\ud83d", "b": ["\\ud83d", 1], "\\udc00": null}',
            {"a": "\ufffd", "b": ["\ufffd", 1], "\ufffd": None},
        ),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"a": "\xff"}', {"a": "\ufffd"}),
        (b'{"a": 1.5} x', {"a": 1.5}),
    ],
)
def test_the_first_value_of_a_body_is_read(body: bytes, value: object) -> None:
    assert decode_object(body, STRUCT) == value


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "missing request body"),
        (b" \r\n\t", "missing request body"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (b'"x"', "json: cannot unmarshal string into Go value of type api.ChatRequest"),
        (b"1", "json: cannot unmarshal number into Go value of type api.ChatRequest"),
        (b"true", "json: cannot unmarshal bool into Go value of type api.ChatRequest"),
        (b"{'a': 1}", "invalid character ''' looking for beginning of value"),
        (b"hello", "invalid character 'h' looking for beginning of value"),
        (b'{"a": NaN}', "invalid character 'N' looking for beginning of value"),
        (b'{"a": -Infinity}', "invalid character '-' looking for beginning of value"),
        (b'{"a": ', "unexpected EOF"),
        (b'{"a": "b', "unexpected EOF"),
        (b'{"a": 1e999}', "json: cannot unmarshal number 1e999 into Go value of type float64"),
        (b'{"a": ' + b"1" * 5000 + b"} x", "json: a number is out of range"),
        (b"[" * 100_000, "exceeded max depth"),
    ],
)
def test_what_is_no_object_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_object(body, STRUCT)
    assert str(caught.value) == text


def test_keys_match_without_regard_to_case_and_the_last_one_counts() -> None:
    fields = Fields({"MODEL": "a", "Model": "b", "Other": 1, "stream": None}, frozenset({"model", "stream"}), "S.")
    assert fields.text("model") == "b"
    assert fields.flag("stream") is None
    assert fields.path == "S."
    assert fields.any("other") is None


@pytest.mark.parametrize(
    ("reader", "value", "text"),
    [
        ("text", 1, "json: cannot unmarshal number into Go struct field S.x of type string"),
        ("text", {}, "json: cannot unmarshal object into Go struct field S.x of type string"),
        ("flag", "yes", "json: cannot unmarshal string into Go struct field S.x of type bool"),
        ("flag", 1.5, "json: cannot unmarshal number into Go struct field S.x of type bool"),
        ("integer", 1.5, "json: cannot unmarshal number 1.5 into Go struct field S.x of type int"),
        ("integer", True, "json: cannot unmarshal bool into Go struct field S.x of type int"),
        ("integer", 1 << 63, "json: cannot unmarshal number 9223372036854775808 into Go struct field S.x of type int"),
        ("number", True, "json: cannot unmarshal bool into Go struct field S.x of type float64"),
        ("number", [], "json: cannot unmarshal array into Go struct field S.x of type float64"),
        ("number", 10**400, "json: cannot unmarshal number into Go struct field S.x of type float64"),
        ("object", [], "json: cannot unmarshal array into Go struct field S.x of type map[string]interface {}"),
    ],
)
def test_wrong_types_are_told_in_gos_words(reader: str, value: object, text: str) -> None:
    fields = Fields({"x": value}, frozenset({"x"}), "S.")
    with pytest.raises(BadRequest) as caught:
        getattr(fields, reader)("x")
    assert str(caught.value) == text


def test_right_types_are_read() -> None:
    known = frozenset("tfinaoz")
    raw = {"t": "a", "f": True, "i": 7, "n": 1, "a": [1], "o": {"k": 1}, "z": None}
    fields = Fields(raw, known, "S.")
    assert (fields.text("t"), fields.flag("f"), fields.integer("i"), fields.number("n")) == ("a", True, 7, 1.0)
    assert (fields.array("a", "[]int"), fields.object("o")) == ([1], {"k": 1})
    for reader in (fields.text, fields.flag, fields.integer, fields.number, fields.object):
        assert reader("z") is None
    assert fields.array("z", "[]int") is None
    assert fields.nested("o", None, frozenset(), "api.X").path == "S.o."
    with pytest.raises(BadRequest, match=r"cannot unmarshal array into Go struct field S.a of type \[\]int"):
        Fields({"a": [1], "t": []}, known, "S.").nested("a", [1], known, "[]int")
    with pytest.raises(BadRequest, match=r"cannot unmarshal string into Go struct field S.t of type \[\]int"):
        fields.array("t", "[]int")


@given(st.binary(max_size=64))
def test_base64_is_the_standards(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert decode_base64(text) == data
    assert decode_base64(text[:3] + "\r\n" + text[3:]) == data


@pytest.mark.parametrize(
    ("text", "place"), [("data:image/png;base64,AAAA", 4), ("AAA", 3), ("AA-A", 2), ("A\u00e9AA", 1)]
)
def test_bad_base64_is_told_with_its_place(text: str, place: int) -> None:
    with pytest.raises(BadRequest, match=f"illegal base64 data at input byte {place}$"):
        decode_base64(text)


def test_values_go_back_to_text_in_order() -> None:
    assert to_json({"b": 1, "a": ["\u00e9", None]}) == '{"b":1,"a":["\u00e9",null]}'
    assert json.loads(to_json({"n": 10**30})) == {"n": 10**30}
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(BadRequest, match="exceeded max depth"):
        to_json(deep)


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("0", 0),
        ("-0", 0),
        ("5m", 300e9),
        ("1h30m", 5400e9),
        ("300ms", 300e6),
        ("1.5s", 1.5e9),
        (".5s", 0.5e9),
        ("1.s", 1e9),
        ("-2s", -2e9),
        ("+2s", 2e9),
        ("7us", 7e3),
        ("7\u00b5s", 7e3),
        ("7\u03bcs", 7e3),
        ("9ns", 9),
    ],
)
def test_durations(text: str, expected_ns: float) -> None:
    assert parse_duration(text) == expected_ns


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("abc", 'time: invalid duration "abc"'),
        (".s", 'time: invalid duration ".s"'),
        ("10", 'time: missing unit in duration "10"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("1h2", 'time: missing unit in duration "1h2"'),
        ("10x", 'time: unknown unit "x" in duration "10x"'),
        ("9999999h", 'time: invalid duration "9999999h"'),
        ("9" * 5000 + "s", f'time: invalid duration "{"9" * 5000}s"'),
    ],
)
def test_bad_durations_are_told_in_gos_words(text: str, error: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_duration(text)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        (None, None),
        (0, 0),
        (0.0, 0),
        ("0", 0),
        (30, 30_000),
        (1.5, 1500),
        ("5m", 300_000),
        ("1ns", 1),
        (1e-9, 1),
        (-1, FOREVER_MS),
        (-0.5, FOREVER_MS),
        ("-1s", FOREVER_MS),
        (10**400, 9_223_372_036_855),
        (-(10**400), FOREVER_MS),
    ],
)
def test_keep_alive(value: object, expected_ms: int | None) -> None:
    assert keep_alive_ms(value) == expected_ms


@pytest.mark.parametrize(("value", "kind"), [(True, "bool"), ({}, "map[string]interface {}"), ([], "[]interface {}")])
def test_keep_alive_of_another_type_is_refused(value: object, kind: str) -> None:
    with pytest.raises(BadRequest) as caught:
        keep_alive_ms(value)
    assert str(caught.value) == f"Unsupported type: '{kind}'"
