"""The functions that templates may call: Go's own, save `call`, and Ollama's.

Lengths and indexes of strings count bytes of UTF-8, as in Go; a cut within a character gives U+FFFD.
Source: Go, package text/template ("Functions"); Ollama `template/template.go`, `api/types.go` (toTypeScriptType).
"""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote_plus

from ollamamax.core.modelspec.template.formatting import sprint, sprintf, sprintln
from ollamamax.core.modelspec.template.values import (
    MAX_TEXT_CHARS,
    Fault,
    Record,
    is_true,
    kind_of,
    to_json,
)

_HTML: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"})
_JS: Final = str.maketrans(
    {
        **{code: f"\\u{code:04X}" for code in range(0x20)},
        **{ord(character): f"\\u{ord(character):04X}" for character in "<>&="},
        **{ord(character): f"\\{character}" for character in "\\'\""},
    }
)
_TYPESCRIPT: Final = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def _comparable(value: Any) -> str:
    """Go's kind of a value that has an order. Raises: Fault."""
    if value is None or isinstance(value, list | dict | Record):
        raise Fault("invalid type for comparison")
    return kind_of(value)


def _equal(left: Any, *right: Any) -> bool:
    if not right:
        raise Fault("missing argument for comparison")
    for value in right:
        if left is None or value is None:
            if _is_nil(left) and _is_nil(value):
                return True
        elif _comparable(left) != _comparable(value):
            raise Fault("incompatible types for comparison")
        elif left == value:
            return True
    return False


def _is_nil(value: Any) -> bool:
    """An empty list or map may be Go's nil one, and is told to be."""
    return value is None or (isinstance(value, list | dict) and not value)


def _less(left: Any, right: Any) -> bool:
    if _comparable(left) != _comparable(right):
        raise Fault("incompatible types for comparison")
    if isinstance(left, bool):
        raise Fault("invalid type for comparison")
    return bool(left < right)


def _less_or_equal(left: Any, right: Any) -> bool:
    return _less(left, right) or bool(left == right)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    if not isinstance(value, list | dict):
        raise Fault(f"len of type {kind_of(value)}")
    return len(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            if not isinstance(key, str):
                raise Fault(f"value has type {kind_of(key)}; should be string")
            value = value.get(key)
        elif isinstance(value, list | str):
            items = value if isinstance(value, list) else value.encode("utf-8", "replace")
            if not 0 <= _whole(key) < len(items):
                raise Fault(f"index out of range: {key}")
            value = items[key]
        else:
            raise Fault("index of untyped nil" if value is None else f"can't index item of type {kind_of(value)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, list | str):
        raise Fault("slice of untyped nil" if value is None else f"can't slice item of type {kind_of(value)}")
    if isinstance(value, str) and len(bounds) == 3:
        raise Fault("cannot 3-index slice a string")
    items: Any = value if isinstance(value, list) else value.encode("utf-8", "replace")
    for bound in bounds:
        if not 0 <= _whole(bound) <= len(items):
            raise Fault(f"index out of range: {bound}")
    if list(bounds) != sorted(bounds):
        raise Fault(f"invalid slice index: {' > '.join(map(str, bounds))}")
    cut = items[slice(*bounds[:2])] if len(bounds) > 1 else items[bounds[0] :] if bounds else items
    return cut if isinstance(value, list) else cut.decode("utf-8", "replace")


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise Fault(f"cannot index slice/array with {'nil' if value is None else f'type {kind_of(value)}'}")
    return value


def _printf(template: Any, *values: Any) -> str:
    if not isinstance(template, str):
        raise Fault(f"wrong type for value; expected string; got {kind_of(template)}")
    return sprintf(template, values)


def _typescript(value: Any) -> str:
    if not isinstance(value, Record) or value.kind != "ToolProperty":
        return "any"
    if options := value.fields["AnyOf"]:
        return " | ".join(map(_typescript, options))
    return " | ".join(_TYPESCRIPT.get(name, "any") for name in value.fields["Type"]) or "any"


FUNCTIONS: Final[dict[str, tuple[Callable[..., Any], int, int | None]]] = {
    "not": (lambda value: not is_true(value), 1, 1),
    "eq": (_equal, 1, None),
    "ne": (lambda left, right: not _equal(left, right), 2, 2),
    "lt": (_less, 2, 2),
    "le": (_less_or_equal, 2, 2),
    "gt": (lambda left, right: not _less_or_equal(left, right), 2, 2),
    "ge": (lambda left, right: not _less(left, right), 2, 2),
    "len": (_length, 1, 1),
    "index": (_index, 1, None),
    "slice": (_slice, 1, 4),
    "print": (lambda *values: sprint(values), 0, None),
    "printf": (_printf, 1, None),
    "println": (lambda *values: sprintln(values), 0, None),
    "html": (lambda *values: sprint(values).translate(_HTML), 0, None),
    "js": (lambda *values: sprint(values).translate(_JS), 0, None),
    "urlquery": (lambda *values: quote_plus(sprint(values), safe="", errors="replace"), 0, None),
    "json": (to_json, 1, 1),
    "toTypeScriptType": (_typescript, 1, 1),
}
"""Each function with the fewest and the most arguments it takes (None = any number)."""

SPELLING: Final = frozenset({"print", "printf", "println", "html", "js", "urlquery", "json"})
"""Those that write their arguments out, whatever is in them."""

SHORT_CIRCUIT: Final = frozenset({"and", "or"})
DATES: Final = frozenset({"currentDate", "yesterdayDate"})
NAMES: Final = FUNCTIONS.keys() | SHORT_CIRCUIT | DATES
"""All names that a template may call."""


def call(name: str, values: list[Any]) -> Any:
    """A function's value. name: of FUNCTIONS. Raises: Fault, also for texts that get too long."""
    function, fewest, most = FUNCTIONS[name]
    if len(values) < fewest or (most is not None and len(values) > most):
        wanted = (
            f"want {fewest}" if fewest == most else f"want at least {fewest}" if most is None else f"want 1 to {most}"
        )
        raise Fault(f"wrong number of args for {name}: {wanted} got {len(values)}")
    result = function(*values)
    if isinstance(result, str) and len(result) > MAX_TEXT_CHARS:
        raise Fault(f"{name}: a text of more than {MAX_TEXT_CHARS} characters")
    return result
