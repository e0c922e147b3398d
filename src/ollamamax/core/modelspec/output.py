"""Taking streamed text apart: thinking from content, and tool calls from text.

Both parsers are incremental: the pieces they give, put together, are the same however the text was cut up, and no
character is given before it is certain what it belongs to.
Source: Ollama `thinking/parser.go`, `tools/tools.go`. Differences, so that nothing a model says is lost or depends on
where chunks end: text in which no call was found is given back in the end whatever the tag; a call needs no arguments;
an object that nests several calls gives them all; an object that ends before a tool's name comes is no call of it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from ollamamax.core.types import ToolCall

BARE_TAGS: Final = ("{", "[")
"""Tags that are JSON itself: only an answer that starts with one is a call."""

_MARKS: Final = re.compile(r'["\\{}\[\]]')
_IN_STRING: Final = re.compile(r'["\\]')
_ARGUMENTS: Final = ("arguments", "parameters")
_DECODE: Final = msgspec.json.Decoder().decode
_ENCODE: Final = msgspec.json.Encoder().encode


class ThinkingSplitter:
    """Parts `<think>...</think>content`; the tags are given without white space around them.

    White space before the opening tag, and after either tag, is dropped. Text that does not start with the opening tag
    is content from its first character on. starts_inside: the prompt ended with the opening tag.
    """

    def __init__(self, open_tag: str, close_tag: str, starts_inside: bool) -> None:
        assert open_tag
        assert close_tag
        self._open_tag = open_tag
        self._close_tag = close_tag
        self._held = ""
        self._is_trimming = starts_inside  # white space is dropped until something else comes
        self._step = self._think if starts_inside else self._look_for_opening

    def feed(self, text: str) -> tuple[str, str]:
        """What is certain by now: (thinking, content)."""
        return self._step(text)

    def finish(self) -> tuple[str, str]:
        """What was held back: (thinking, content); of an unfinished tag, what it would have closed or opened in."""
        held, self._held = self._held, ""
        return (held, "") if self._step == self._think else ("", held)

    def _look_for_opening(self, text: str) -> tuple[str, str]:
        self._held += text
        start = self._held.lstrip()
        if start.startswith(self._open_tag):
            self._held = ""
            self._is_trimming = True
            self._step = self._think
            return self._think(start[len(self._open_tag) :])
        if self._open_tag.startswith(start):
            return "", ""
        self._step = self._say
        held, self._held = self._held, ""
        return "", held

    def _think(self, text: str) -> tuple[str, str]:
        text = self._trimmed(self._held + text)
        thinking, tag, content = text.partition(self._close_tag)
        if tag:
            self._held = ""
            self._is_trimming = True
            self._step = self._say
            return thinking, self._trimmed(content)
        kept = len(text) - _overlap(text, self._close_tag)
        self._held = text[kept:]
        return text[:kept], ""

    def _say(self, text: str) -> tuple[str, str]:
        return "", self._trimmed(text) if self._is_trimming else text

    def _trimmed(self, text: str) -> str:
        if self._is_trimming:
            text = text.lstrip()
            self._is_trimming = not text
        return text


class ToolCallParser:
    """Finds the calls of declared tools in text that a template's tag announces.

    tag: see Template.tool_tag; None counts as "{".  tools: as in a request.  new_id: an id for each call found.
    Text before the tag is content. From the tag on text is held: each balanced JSON object that names a declared tool,
    or follows its name, is a call. Once a call was found the other text from the tag on is dropped. Where the tag is a
    bare brace or bracket, the text is content after all if it does not start with it, or if what it opens closes
    without a call.
    """

    def __init__(self, tag: str | None, tools: Sequence[Mapping[str, Any]], new_id: Callable[[], str]) -> None:
        self._tag = tag or BARE_TAGS[0]
        self._names = frozenset(tool["function"]["name"] for tool in tools) - {""}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._new_id = new_id
        self._held: list[str] = []  # from the tag, or from what may become one, until a call is found
        self._count = 0
        self._objects: _ObjectFinder | None = None  # set from the tag on
        self._is_plain = False  # no calls can come any more

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """The content and the calls that are certain by now."""
        if self._is_plain:
            return text, []
        if self._objects is None:
            return self._look_for_tag(text)
        return self._collect(text)

    def finish(self) -> tuple[str, list[ToolCall]]:
        """The text that was held back, if there was no call in it."""
        held = self._take_held()
        return "" if self._count else held, []

    def _look_for_tag(self, text: str) -> tuple[str, list[ToolCall]]:
        content, tag, rest = (self._take_held() + text).partition(self._tag)
        if content.strip() and self._tag in BARE_TAGS:
            self._is_plain = True
            return content + tag + rest, []
        if not tag:
            kept = len(content) - _overlap(content, self._tag)
            self._held.append(content[kept:])
            return content[:kept], []
        self._objects = _ObjectFinder()
        found, calls = self._collect(tag + rest)
        return content + found, calls

    def _collect(self, text: str) -> tuple[str, list[ToolCall]]:
        assert self._objects is not None
        if not self._count:
            self._held.append(text)
        calls: list[ToolCall] = []
        for closed, before, found in self._objects.feed(text):
            calls += self._calls(before, found)
            if not self._count and closed == self._tag:
                self._is_plain = True
                return self._take_held(), []
        return "", calls

    def _calls(self, before: str, found: str) -> Iterator[ToolCall]:
        """The calls of an object; before: the text between it and the one before it."""
        value = _decoded(found)
        if value is None:
            return
        pairs = list(self._named(value))
        if not pairs and (name := self._name_in(before)):
            pairs = [(name, value)]
        is_foreign = isinstance(value.get("name"), str) and any(key in value for key in _ARGUMENTS)
        if not pairs and not is_foreign and (name := self._name_in(found)):
            pairs = [(name, _arguments(value, (*_ARGUMENTS, name)))]
        for name, arguments in pairs:
            yield ToolCall(self._new_id(), self._count, name, _ENCODE(arguments).decode())
            self._count += 1

    def _named(self, value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Objects at any depth whose `name` is that of a declared tool, in order, with their arguments."""
        stack: list[Any] = [value]
        while stack:
            match stack.pop():
                case {"name": str(name), **rest} if name in self._names:
                    yield name, _arguments({str(key): inner for key, inner in rest.items()}, _ARGUMENTS)
                case dict(inner):
                    stack += reversed(inner.values())
                case list(items):
                    stack += reversed(items)

    def _name_in(self, text: str) -> str | None:
        """The first declared name, the longest of those that start there."""
        match = self._pattern.search(text)
        return match.group() if match else None

    def _take_held(self) -> str:
        held = "".join(self._held)
        self._held.clear()
        return held


class _ObjectFinder:
    """Cuts text into balanced `{...}`, strings respected, and what lies between; tells where a list closes."""

    def __init__(self) -> None:
        self._between: list[str] = []
        self._object: list[str] = []
        self._braces = 0
        self._brackets = 0
        self._is_in_string = False
        self._skip = 0  # characters of the next piece that are escaped

    def feed(self, text: str) -> Iterator[tuple[str, str, str]]:
        """For each object that ends: ("{", the text before it, the object). For each outermost list: ("[", "", "")."""
        at, start = self._skip, 0
        while mark := (_IN_STRING if self._is_in_string else _MARKS).search(text, at):
            at = mark.end()
            match mark.group():
                case '"':
                    self._is_in_string = self._braces > 0 and not self._is_in_string
                case "\\":
                    at += self._is_in_string
                case "{":
                    if not self._braces:
                        self._between.append(text[start : at - 1])
                        start = at - 1
                    self._braces += 1
                case "}" if self._braces:
                    self._braces -= 1
                    if not self._braces:
                        yield "{", _taken(self._between), _taken(self._object) + text[start:at]
                        start = at
                case "[" if not self._braces:
                    self._brackets += 1
                case "]" if self._brackets and not self._braces:
                    self._brackets -= 1
                    if not self._brackets:
                        yield "[", "", ""
        self._skip = max(at - len(text), 0)
        (self._object if self._braces else self._between).append(text[start:])


def _taken(pieces: list[str]) -> str:
    text = "".join(pieces)
    pieces.clear()
    return text


def _decoded(text: str) -> dict[str, Any] | None:
    try:
        value = _DECODE(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _arguments(value: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """What stands under one of the keys, as an object or as the text of one; else the object itself."""
    for key in keys:
        if key not in value:
            continue
        inner = value[key]
        found = {} if inner in (None, "") else _decoded(inner) if isinstance(inner, str) else inner
        if isinstance(found, dict):
            return found
    return value


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that the tag starts with."""
    longest = min(len(text), len(tag) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(tag[:length])), 0)
