"""Model parameters as people write and read them: PARAMETER lines, and the `parameters` text of /api/show."""

import re
from collections.abc import Mapping
from decimal import Decimal
from math import isinf
from typing import Any, Final

import msgspec

from ollamamax.core.errors import InvalidOption
from ollamamax.core.options import OPTION_TYPES, RETIRED, OptionType, parse_options

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_INT64: Final = range(-(1 << 63), 1 << 63)
_FLOAT: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_KEY_COLUMNS: Final = 30


def from_text(name: str, text: str) -> Any:
    """The value of a `PARAMETER name text` line; a `stop` comes as a list of one.

    Raises: InvalidOption for an unknown name or a text that is not of the option's type.
    """
    kind = OPTION_TYPES.get(name)
    if kind is None:
        raise InvalidOption(f"unknown parameter '{name}'")
    if kind is OptionType.STRINGS:
        return [text]
    if kind is OptionType.BOOLEAN:
        if text not in _TRUE | _FALSE:
            raise InvalidOption(f"invalid bool value [{text}]")
        return text in _TRUE
    if kind is OptionType.INTEGER:
        if not _INTEGER.fullmatch(text) or int(text) not in _INT64:
            raise InvalidOption(f"invalid int value [{text}]")
        return int(text)
    if not _FLOAT.fullmatch(text) or isinf(float(text)):
        raise InvalidOption(f"invalid float value [{text}]")
    return float(text)


def checked(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for a new model: nulls and retired names dropped.

    Raises: InvalidOption for an unknown name or a value of the wrong type.
    """
    _, unknown = parse_options(raw)
    for name in unknown:
        if name not in RETIRED:
            raise InvalidOption(f"unknown parameter '{name}'")
    return {name: value for name, value in raw.items() if name in OPTION_TYPES and value is not None}


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """One line per value: the name padded to 30 columns, a blank, the value as Go's %#v prints it. Names sorted."""
    return "\n".join(
        f"{name:<{_KEY_COLUMNS}} {_go_value(value)}" for name in sorted(parameters) for value in _each(parameters[name])
    )


def modelfile_values(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of each PARAMETER line that says the same; numbers in a form that a Modelfile can hold."""
    return [(name, _plain(name, value)) for name in sorted(parameters) for value in _each(parameters[name])]


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _plain(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) and OPTION_TYPES.get(name) is OptionType.INTEGER:
        # What a request would make of it: PARAMETER takes neither a fraction nor an exponent here.
        return str(getattr(parse_options({name: value})[0], name))
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _go_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return _go_float(float(value))
    return msgspec.json.encode(value).decode()


def _go_float(value: float) -> str:
    """The shortest digits that mean `value`; with an exponent (of two digits) below 1e-4 and from 1e6 up."""
    shortest = repr(value)
    number = Decimal(shortest).normalize()
    power = number.adjusted()
    if number == 0 or -4 <= power < 6:
        return shortest.removesuffix(".0")
    first, *rest = map(str, number.as_tuple().digits)
    mantissa = f"{first}.{''.join(rest)}" if rest else first
    return f"{'-' if value < 0 else ''}{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
