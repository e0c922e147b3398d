"""Thinking and tool calls taken out of streamed text, whatever the chunks."""

import json
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.modelspec.output import ThinkingSplitter, ToolCallParser
from ollamamax.core.types import ToolCall


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {}}}


TOOLS = [tool(name) for name in ("get", "get_weather", "add", "")]


def think(*chunks: str, starts_inside: bool = False) -> tuple[str, str]:
    splitter = ThinkingSplitter("<think>", "</think>", starts_inside)
    pieces = [*(splitter.feed(chunk) for chunk in chunks), splitter.finish()]
    return "".join(thinking for thinking, _ in pieces), "".join(content for _, content in pieces)


def parser(tag: str | None) -> ToolCallParser:
    numbers = count(1)
    return ToolCallParser(tag, TOOLS, lambda: f"call_{next(numbers)}")


def calls_of(tag: str | None, *chunks: str) -> tuple[str, list[ToolCall]]:
    taken = parser(tag)
    pieces = [*(taken.feed(chunk) for chunk in chunks), taken.finish()]
    return "".join(content for content, _ in pieces), [call for _, calls in pieces for call in calls]


def brief(tag: str | None, *chunks: str) -> tuple[str, list[tuple[str, Any]]]:
    content, calls = calls_of(tag, *chunks)
    assert [call.index for call in calls] == list(range(len(calls)))
    assert [call.id for call in calls] == [f"call_{number + 1}" for number in range(len(calls))]
    return content, [(call.name, json.loads(call.arguments)) for call in calls]


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


# -- thinking


@pytest.mark.parametrize(
    ("text", "thinking", "content"),
    [
        ("", "", ""),
        ("plain", "", "plain"),
        ("  plain ", "", "  plain "),
        (" \n", "", " \n"),
        ("<think>why</think>so", "why", "so"),
        ("\n <think>\n\nwhy\n</think>\n\nso \n", "why\n", "so \n"),
        ("<think>why", "why", ""),
        ("<think>why</thin", "why</thin", ""),
        ("<think>a</thinking</think>b", "a</thinking", "b"),
        ("<think></think>so", "", "so"),
        ("<think> \n </think> \n ", "", ""),
        ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
        ("<think>a</think>b</think>", "a", "b</think>"),
        ("so <think>a</think>", "", "so <think>a</think>"),
        ("<thin", "", "<thin"),
        (" <thin air", "", " <thin air"),
        ("<think><</think>", "<", ""),
    ],
)
def test_thinking_is_parted(text: str, thinking: str, content: str) -> None:
    assert think(text) == (thinking, content)
    assert think(*text) == (thinking, content)


@pytest.mark.parametrize(
    ("text", "thinking", "content"),
    [
        ("why</think>so", "why", "so"),
        ("\n why\n</think>\nso", "why\n", "so"),
        ("</think>\n\nso", "", "so"),
        ("never ends", "never ends", ""),
        (" \n", "", ""),
        ("<think>a</think>b", "<think>a", "b"),
    ],
)
def test_thinking_that_the_prompt_began(text: str, thinking: str, content: str) -> None:
    assert think(text, starts_inside=True) == (thinking, content)
    assert think(*text, starts_inside=True) == (thinking, content)


def test_what_is_certain_is_given_at_once() -> None:
    splitter = ThinkingSplitter("<think>", "</think>", starts_inside=False)
    assert splitter.feed("<th") == ("", "")
    assert splitter.feed("ink>wh") == ("wh", "")
    assert splitter.feed("y</") == ("y", "")
    assert splitter.feed("b>") == ("</b>", "")
    assert splitter.feed("</think>\n") == ("", "")
    assert splitter.feed("so") == ("", "so")
    assert splitter.feed(" ") == ("", " ")
    assert splitter.finish() == ("", "")


_THOUGHTS = st.lists(st.sampled_from(["<think>", "</think>", "<", "</", "think>", " ", "\n", "a", "b"]), max_size=12)
_PLACES = st.lists(st.integers(0, 60), max_size=8)


@given(_THOUGHTS.map("".join), _PLACES, st.booleans())
def test_thinking_does_not_depend_on_the_chunks(text: str, places: list[int], starts_inside: bool) -> None:
    whole = think(text, starts_inside=starts_inside)
    assert think(*cut(text, places), starts_inside=starts_inside) == whole
    assert think(*text, starts_inside=starts_inside) == whole


# -- tool calls

CALL = '{"name": "get_weather", "arguments": {"city": "Rome", "at": [1, {"x": "}"}]}}'
ROME = ("get_weather", {"city": "Rome", "at": [1, {"x": "}"}]})


@pytest.mark.parametrize(
    ("tag", "text", "content", "calls"),
    [
        ("<tool_call>", "", "", []),
        ("<tool_call>", "just text", "just text", []),
        ("<tool_call>", f"<tool_call>\n{CALL}\n</tool_call>", "", [ROME]),
        ("<tool_call>", f"Let me see. <tool_call>{CALL}</tool_call> Done.", "Let me see. ", [ROME]),
        ("<tool_call>", f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "", [ROME, ROME]),
        ("<tool_call>", '<tool_call>{"arguments": {"a": "5"}, "name": "add"}', "", [("add", {"a": "5"})]),
        ("<tool_call>", '<tool_call>{"name": "get_weather", "arguments": {}}', "", [("get_weather", {})]),
        ("<tool_call>", '<tool_call>{"name": "get", "arguments": null}', "", [("get", {})]),
        ("<tool_call>", '<tool_call>{"name": "get", "arguments": ""}', "", [("get", {})]),
        ("<tool_call>", '<tool_call>{"name": "get"}', "", [("get", {})]),
        ("<tool_call>", '<tool_call>{"name": "get", "id": 5}', "", [("get", {"id": 5})]),
        ("<tool_call>", '<tool_call>{"name": "add", "parameters": {"a": 1}}', "", [("add", {"a": 1})]),
        ("<tool_call>", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}', "", [("add", {"a": 1})]),
        ("<tool_call>", '<tool_call>{"name": "add", "arguments": "1 + 1"}', "", [("add", {"arguments": "1 + 1"})]),
        ("<tool_call>", '<tool_call>{"name": "add", "arguments": [1]}', "", [("add", {"arguments": [1]})]),
        # other shapes of JSON
        ("[TOOL_CALLS]", f"[TOOL_CALLS] [{CALL}, {CALL}]", "", [ROME, ROME]),
        ("[TOOL_CALLS]", f'[TOOL_CALLS]{{"calls": [{CALL}, {{"function": {CALL}}}]}}', "", [ROME, ROME]),
        ("Action:", 'Action: ```json\n[{"tool_name": "add", "parameters": {"a": 1}}]```', "", [("add", {"a": 1})]),
        ("<f>", '<f>{"add": {"a": 1}}', "", [("add", {"a": 1})]),
        ("<f>", '<f>{"tool": "add", "a": 1}', "", [("add", {"tool": "add", "a": 1})]),
        # the name in front
        ("[TOOL_CALLS]", '[TOOL_CALLS]get_weather{"city": "Rome"}', "", [("get_weather", {"city": "Rome"})]),
        ("[T]", '[T]get{"name": "Bob"} [T]add {"a": 1}', "", [("get", {"name": "Bob"}), ("add", {"a": 1})]),
        ("<｜sep｜>", '<｜sep｜>get_weather\n```json\n{"x": "é"}\n```<｜end｜>', "", [("get_weather", {"x": "é"})]),
        # no call
        ("<tool_call>", "a <tool_call> b", "a <tool_call> b", []),
        ("<tool_call>", "a <tool", "a <tool", []),
        ("<tool_call>", '<tool_call>{"name": "nope", "arguments": {"q": "add"}}', None, []),
        ("<tool_call>", '<tool_call>{"foo": 1}', None, []),
        ("<tool_call>", "<tool_call>get_weather {'a': 1}", None, []),
        ("<tool_call>", "<tool_call>get_weather {} }", "", [("get_weather", {})]),
        ("<tool_call>", "<tool_call>} ] get_weather {", None, []),
        ("<tool_call>", '<tool_call>{"name": "get", "arguments": {', None, []),
        ("<tool_call>", f"<tool_call>add 3\" {{'}} {CALL}", "", [("get_weather", ROME[1])]),
        # bare JSON
        (None, CALL, "", [ROME]),
        ("{", f" \n{CALL}", " \n", [ROME]),
        ("{", f"{CALL};{CALL} and more", "", [ROME, ROME]),
        ("{", f"So: {CALL}", None, []),
        ("{", '{"name": "nope", "arguments": {}} x', None, []),
        ("{", '{"name": "jeff"}' + CALL, None, []),
        ("{", 'for { fmt.Println("hello") }', None, []),
        ("{", "{ fmt.Println(add) } x", None, []),
        ("{", "{ [ ] ", None, []),
        ("[", f"[{CALL}, {CALL}]]", "", [ROME, ROME]),
        ("[", f'[{{"name": "nope"}}, {CALL}', "", [ROME]),
        ("[", "[special delivery] x", None, []),
        ("[", f"[[1], [2]] {CALL}", None, []),
        ("[", f"no [{CALL}]", None, []),
        ("[", '[{"a": "]"}', None, []),
    ],
)
def test_calls_are_found(tag: str | None, text: str, content: str | None, calls: list[tuple[str, Any]]) -> None:
    wanted = (text if content is None else content, calls)
    assert brief(tag, text) == wanted
    assert brief(tag, *text) == wanted


def test_the_longest_name_that_starts_first_wins() -> None:
    assert brief("<t>", '<t>get_weather get add{"a": 1}')[1] == [("get_weather", {"a": 1})]
    assert brief("<t>", '<t>get get_weather add{"a": 1}')[1] == [("get", {"a": 1})]


def test_a_call_is_given_as_soon_as_it_is_whole() -> None:
    taken = parser("<tool_call>")
    assert taken.feed("Well, <") == ("Well, ", [])
    assert taken.feed("3 <tool_") == ("<3 ", [])
    assert taken.feed('call>{"name": "add", "argu') == ("", [])
    assert taken.feed('ments": {"a": "\\') == ("", [])
    assert taken.feed('"}"}') == ("", [])
    assert taken.feed("}") == ("", [ToolCall("call_1", 0, "add", '{"a":"\\"}"}')])
    assert taken.feed("</tool_call>") == ("", [])
    assert taken.finish() == ("", [])


def test_arguments_keep_their_order_and_their_text() -> None:
    _, calls = calls_of("{", '{"name": "add", "arguments": {"z": 1.5, "a": "<é>", "m": [true, null]}}')
    assert calls[0].arguments == '{"z":1.5,"a":"<é>","m":[true,null]}'


def test_without_named_tools_nothing_is_a_call() -> None:
    taken = ToolCallParser("<t>", [tool("")], lambda: "id")
    assert taken.feed('<t>{"name": "", "arguments": {}}') == ("", [])
    assert taken.finish() == ('<t>{"name": "", "arguments": {}}', [])


def test_objects_nested_without_end_are_no_calls() -> None:
    text = "<t>add" + '{"a":' * 20_000 + "1" + "}" * 20_000
    assert brief("<t>", text) == (text, [])


_TALK = st.lists(
    st.sampled_from(
        [
            *(
                CALL,
                '{"name": "add"}',
                '{"a": "\\"}"}',
                "{",
                "}",
                "[",
                "]",
                '"',
                "\\",
                "add",
                "get",
                "get_weather",
                " ",
            ),
            *("<tool_call>", "<tool", "_call>", "</tool_call>", "text", "\n", '{"name": "nope", "arguments": {}}'),
        ]
    ),
    max_size=8,
)


@given(st.sampled_from([None, "<tool_call>", "{", "["]), _TALK.map("".join), _PLACES)
def test_calls_do_not_depend_on_the_chunks(tag: str | None, text: str, places: list[int]) -> None:
    whole = calls_of(tag, text)
    assert calls_of(tag, *cut(text, places)) == whole
    assert calls_of(tag, *text) == whole


@given(st.sampled_from(["<tool_call>", "{", "["]), _TALK.map("".join))
def test_without_a_call_no_text_is_lost(tag: str, text: str) -> None:
    content, calls = calls_of(tag, text)
    assert text.startswith(content) if calls else content == text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["<tool_call>", "{", "["]), st.dictionaries(st.text(max_size=4), _JSON, max_size=4))
def test_any_arguments_come_back(tag: str, arguments: dict[str, Any]) -> None:
    call = json.dumps({"name": "add", "arguments": arguments})
    text = {"<tool_call>": f"<tool_call>{call}</tool_call>", "{": call, "[": f"[{call}]"}[tag]
    assert brief(tag, text) == ("", [("add", arguments)])
