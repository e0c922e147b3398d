"""Reading a request's JSON as Go's `encoding/json` would, error texts included.

Keys match without regard to case, unknown ones are ignored, null means unset, only the first value of the body is
read, lone surrogates and bytes that are no UTF-8 become U+FFFD. Deliberate limit: of the syntax errors only the two
commonest texts are Go's.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec

from ollamamax.core.errors import BadRequest

_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/]")
_KINDS: Final = {
    type(None): "null",
    bool: "bool",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_INT64_MAX: Final = (1 << 63) - 1
_DECODE: Final = msgspec.json.Decoder().decode
_ENCODE: Final = msgspec.json.Encoder().encode


def decode_object(body: bytes, struct: str) -> dict[str, Any]:
    """The first JSON value of `body`, which must be an object. struct: Go's name of the request, for error texts.

    Raises: BadRequest.
    """
    try:
        value = _DECODE(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _decode_leniently(body)
    if isinstance(value, dict):
        return value
    if value is None:
        return {}
    raise BadRequest(f"json: cannot unmarshal {kind_of(value)} into Go value of type api.{struct}")


def _decode_leniently(body: bytes) -> Any:
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    if not text:
        raise BadRequest("missing request body")
    try:
        value, _ = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).raw_decode(text)
        return _without_surrogates(value)
    except json.JSONDecodeError as error:
        if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
            raise BadRequest("unexpected EOF") from None
        raise BadRequest(f"invalid character '{text[error.pos]}' looking for beginning of value") from None
    except RecursionError:
        raise BadRequest("exceeded max depth") from None
    except ValueError:  # an integer of more digits than Python converts
        raise BadRequest("json: a number is out of range") from None


def _refuse_constant(name: str) -> NoReturn:
    raise BadRequest(f"invalid character '{name[0]}' looking for beginning of value")


def _finite(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise BadRequest(f"json: cannot unmarshal number {text} into Go value of type float64")
    return value


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return _SURROGATES.sub("\ufffd", value)
        case list():
            return [_without_surrogates(item) for item in value]
        case dict():
            return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def kind_of(value: Any) -> str:
    """Go's word for the kind of a JSON value."""
    return _KINDS[type(value)]


def to_json(value: Any) -> str:
    """Compact JSON text of a decoded value, key order kept. Raises: BadRequest for one that is nested too deeply."""
    try:
        return _ENCODE(value).decode()
    except RecursionError:
        raise BadRequest("exceeded max depth") from None


def decode_base64(text: str) -> bytes:
    """Standard base64, line ends ignored. Raises: BadRequest with the place of the first bad byte."""
    bare = text.replace("\r", "").replace("\n", "")
    try:
        return base64.b64decode(bare, validate=True)
    except (binascii.Error, ValueError):
        wrong = _NOT_BASE64.search(bare)
        raise BadRequest(f"illegal base64 data at input byte {wrong.start() if wrong else len(bare)}") from None


class Fields:
    """One JSON object of a request, read field by field. Each reader gives None where the field is unset.

    raw: the decoded object.  known: its field names, all lower case.  path: `Struct` or `Struct.field.` for errors.
    Readers raise BadRequest in Go's words where a value has the wrong type.
    """

    __slots__ = ("_path", "_raw")

    def __init__(self, raw: dict[str, Any], known: frozenset[str], path: str) -> None:
        self._raw: Mapping[str, Any] = raw if raw.keys() <= known else _fold(raw, known)
        self._path = path

    @property
    def path(self) -> str:
        """What stands before a field's name in error texts."""
        return self._path

    def any(self, name: str) -> Any:
        """The value, unchecked."""
        return self._raw.get(name)

    def text(self, name: str) -> str | None:
        """A string."""
        value = self._raw.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, value, "string")
        return value

    def flag(self, name: str) -> bool | None:
        """A boolean."""
        value = self._raw.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, value, "bool")
        return value

    def integer(self, name: str) -> int | None:
        """A whole number of 64 bits."""
        value = self._raw.get(name)
        if value is None:
            return None
        if isinstance(value, float) or (type(value) is int and abs(value) > _INT64_MAX):
            raise BadRequest(self._message(f"number {value!r}", name, "int"))
        if type(value) is not int:
            raise self.wrong(name, value, "int")
        return value

    def number(self, name: str) -> float | None:
        """A number."""
        value = self._raw.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, value, "float64")
        try:
            return float(value)
        except OverflowError:
            raise BadRequest(self._message("number", name, "float64")) from None

    def array(self, name: str, go_type: str) -> list[Any] | None:
        """An array; go_type: Go's name of its type."""
        value = self._raw.get(name)
        if value is not None and not isinstance(value, list):
            raise self.wrong(name, value, go_type)
        return value

    def object(self, name: str, go_type: str = "map[string]interface {}") -> dict[str, Any] | None:
        """An object; go_type: Go's name of its type."""
        value = self._raw.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, value, go_type)
        return value

    def nested(self, name: str, value: Any, known: frozenset[str], go_type: str) -> "Fields":
        """`value`, which stands in the field `name`, as an object of its own; null counts as empty."""
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, value, go_type)
        return Fields(value or {}, known, f"{self._path}{name}.")

    def wrong(self, name: str, value: Any, go_type: str) -> BadRequest:
        """The error for a value of the wrong type."""
        return BadRequest(self._message(kind_of(value), name, go_type))

    def _message(self, got: str, name: str, go_type: str) -> str:
        return f"json: cannot unmarshal {got} into Go struct field {self._path}{name} of type {go_type}"


def _fold(raw: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    folded: dict[str, Any] = {}
    for key, value in raw.items():
        name = key if key in known else key.lower()
        if name in known:
            folded[name] = value
    return folded
