"""Declared tools as templates see and print them."""

from typing import Any

import pytest

from ollamamax.core.errors import BadRequest
from ollamamax.core.modelspec.template import parse
from ollamamax.core.modelspec.tool_records import tool_list


def run(text: str, *tools: dict[str, Any]) -> str:
    return parse("{{ if .Messages }}{{ end }}" + text).render({"Tools": tool_list(tools)}, "", "")


WEATHER = {
    "type": "function",
    "strict": True,
    "function": {
        "description": "Tells <the> weather",
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "$defs": {"b": 1, "a": 2},
            "required": ["city", 5],
            "properties": {
                "unit": {"type": ["string", "null"], "enum": ["c", "f"], "default": "c"},
                "city": {"description": "Where", "type": "string", "minLength": 1},
            },
        },
    },
}


def test_a_tool_prints_as_json_in_ollamas_order_and_of_known_fields_alone() -> None:
    function = (
        '{"name":"get_weather","description":"Tells \\u003cthe\\u003e weather","parameters":{"type":"object",'
        '"$defs":{"a":2,"b":1},"required":["city"],"properties":{"city":{"type":"string","description":"Where"},'
        '"unit":{"type":["string","null"],"enum":["c","f"]}}}}'
    )
    whole = f'{{"type":"function","function":{function}}}'
    assert run("{{ .Tools }}", WEATHER) == f"[{whole}]"
    assert run("{{ json .Tools }}", WEATHER) == f"[{whole}]"
    assert run("{{ range .Tools }}{{ . }}{{ .Function }}{{ end }}", WEATHER) == whole + function


def test_the_parts_of_a_tool() -> None:
    text = (
        "{{ range .Tools }}{{ .Type }} {{ .Function.Name }}: {{ .Function.Description }};"
        " {{ .Function.Parameters.Type }}"
        "{{ range $name, $p := .Function.Parameters.Properties }} {{ $name }} {{ $p.Type }} {{ toTypeScriptType $p }}"
        "{{ range $p.Enum }}/{{ . }}{{ end }}{{ end }}"
        "{{ range .Function.Parameters.Required }} !{{ . }}{{ end }}{{ end }}"
    )
    assert run(text, WEATHER) == (
        "function get_weather: Tells <the> weather; object city string string"
        " unit [string null] string | null/c/f !city"
    )
    properties = "{{ range .Tools }}{{ .Function.Parameters.Properties }}{{ end }}"
    assert run(properties, WEATHER).startswith('{"city":{"type":"string"')


def test_what_is_not_said_is_left_out_or_null() -> None:
    assert run("{{ .Tools }}", {"function": {"name": "f"}}) == (
        '[{"type":"","function":{"name":"f","description":"","parameters":{"type":"","properties":null}}}]'
    )
    assert run("{{ range .Tools }}{{ .Function.Parameters.Properties }}{{ end }}", {}) == "{}"
    assert run("{{ .Tools }}") == "[]"


def test_values_of_a_wrong_type_count_as_absent() -> None:
    wrong = {
        "type": 1,
        "items": [1],
        "function": {"name": None, "parameters": {"properties": {"p": 3, "q": {"enum": 1}}}},
    }
    assert run("{{ .Tools }}", wrong, {"function": 1}) == (
        '[{"type":"","items":[1],"function":{"name":"","description":"","parameters":{"type":"",'
        '"properties":{"p":{},"q":{}}}}},'
        '{"type":"","function":{"name":"","description":"","parameters":{"type":"","properties":null}}}]'
    )


def test_nested_properties_keep_their_order() -> None:
    schema = {
        "type": "object",
        "items": {"type": "object"},
        "properties": {
            "list": {"type": "array", "items": {"z": 1, "a": [{"type": "string"}]}, "description": ""},
            "inner": {
                "type": "object",
                "properties": {"z": {"type": "string"}, "a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
                "required": ["z"],
            },
        },
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert run("{{ range .Tools }}{{ .Function.Parameters }}{{ end }}", tool) == (
        '{"type":"object","items":{"type":"object"},"properties":{"inner":{"type":"object","properties":'
        '{"z":{"type":"string"},"a":{"anyOf":[{"type":"integer"},{"type":"null"}]}},"required":["z"]},'
        '"list":{"type":"array","items":{"a":[{"type":"string"}],"z":1}}}}'
    )


def test_endless_nesting_is_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(10_000):
        nested = {"properties": {"p": nested}}
    with pytest.raises(BadRequest, match="exceeded max depth"):
        tool_list([{"function": {"name": "f", "parameters": nested}}])
