"""What templates compute with, and how Go spells it.

None is Go's nil; bool, int, float and str are themselves; a list is a slice; a dict is a `map[string]any`, whose
missing keys give None and whose keys are sorted wherever it is ranged over or printed. The classes here stand for Go's
types with fields or with a text of their own.
Source: Go, packages fmt (the verb %v) and encoding/json (Marshal).
"""

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

_HTML: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
MAX_TEXT_CHARS: Final = 8 << 20
"""The longest text that a template may make or write."""

_ITEM_CHARS: Final = 16
_FIXED_BELOW: Final = 1e21
_EXPONENT_FROM: Final = 6


class Fault(Exception):
    """Why a template can't go on; the line is added by whoever knows it."""


class Record:
    """A Go struct: these fields and no others.

    fields: by their names in templates.  json: what Marshal makes of it, in order; None = the fields.
    prints_json: it prints as its JSON, not as `{a b}`.
    """

    __slots__ = ("fields", "json", "kind", "prints_json")

    def __init__(
        self, kind: str, fields: Mapping[str, Any], json: Mapping[str, Any] | None = None, prints_json: bool = False
    ) -> None:
        self.kind = kind
        self.fields = fields
        self.json = fields if json is None else json
        self.prints_json = prints_json


class JsonList(list[Any]):
    """A slice that prints as its JSON."""


class JsonMap(dict[str, Any]):
    """A map that prints as its JSON."""


class TypeNames(list[str]):
    """The `type` of a tool's property: one name prints and marshals as itself, several as a list."""


def is_true(value: Any) -> bool:
    """Go's truth: not empty, not zero, not nil. A record is true."""
    return isinstance(value, Record) or bool(value)


def kind_of(value: Any) -> str:
    """Go's word for the kind, for error texts and %T."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float64"
        case str():
            return "string"
        case list():
            return "[]interface {}"
        case dict():
            return "map[string]interface {}"
    return str(value.kind)


def size_of(value: Any) -> int:
    """About the characters of a value that is written out; an item takes the time of many, and counts as many."""
    total, stack = 0, [value]
    while stack:
        match stack.pop():
            case str(text):
                total += len(text)
            case list(items):
                total += _ITEM_CHARS * len(items)
                stack += items
            case dict(items):
                total += _ITEM_CHARS * len(items)
                stack += items.values()
            case Record() as record:
                total += _ITEM_CHARS * len(record.fields)
                stack += record.fields.values()
    return total


def to_text(value: Any) -> str:
    """Go's %v."""
    match value:
        case str():
            return value
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return float_text(value)
        case TypeNames() if len(value) < 2:
            return "".join(value)
        case JsonList() | JsonMap():
            return to_json(value)
        case list():
            return f"[{' '.join(map(to_text, value))}]"
        case dict():
            return f"map[{' '.join(f'{key}:{to_text(value[key])}' for key in sorted(value))}]"
    assert isinstance(value, Record)
    return to_json(value) if value.prints_json else f"{{{' '.join(map(to_text, value.fields.values()))}}}"


def float_text(value: float) -> str:
    """The fewest digits that read back as the same number; with an exponent below 1e-4 and from 1e6 on."""
    if not math.isfinite(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    sign, digits, power = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(power, int)
    exponent = len(digits) - 1 + power
    if value == 0 or -4 <= exponent < _EXPONENT_FROM:
        return repr(value).removesuffix(".0")
    mantissa = "".join(map(str, digits))
    fraction = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
    return f"{'-' * sign}{mantissa[0]}{fraction}e{exponent:+03d}"


def to_json(value: Any) -> str:
    """Go's json.Marshal: map keys sorted, records in their own order, `<`, `>` and `&` escaped."""
    return _ENCODE(_plain(value)).translate(_HTML)


def _plain(value: Any) -> Any:
    match value:
        case float() if value.is_integer() and abs(value) < _FIXED_BELOW:
            return int(value)
        case TypeNames() if len(value) == 1:
            return value[0]
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {key: _plain(value[key]) for key in sorted(value)}
        case Record():
            return {key: _plain(item) for key, item in value.json.items()}
    return value
