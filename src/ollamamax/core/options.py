"""Ollama's option table as data, and how options are read, laid over each other and defaulted.

Rules (Ollama's `Options.FromMap`): names are matched exactly; an unknown name is no error; null is skipped; a
number with a fraction is cut towards zero where an integer is meant; everything else must have the option's type.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from math import isfinite
from typing import Any, Final

import msgspec

from ollamamax.core.errors import InvalidOption
from ollamamax.core.types import Options

_INT64_MAX: Final = (1 << 63) - 1


class OptionType(Enum):
    """An option's type; the value is the word that Ollama's error text uses."""

    INTEGER = "integer"
    FLOAT = "float32"
    BOOLEAN = "boolean"
    STRINGS = "array"


OPTION_TYPES: Final[Mapping[str, OptionType]] = {
    "num_ctx": OptionType.INTEGER,
    "num_batch": OptionType.INTEGER,
    "num_gpu": OptionType.INTEGER,
    "main_gpu": OptionType.INTEGER,
    "use_mmap": OptionType.BOOLEAN,
    "num_thread": OptionType.INTEGER,
    "num_keep": OptionType.INTEGER,
    "num_predict": OptionType.INTEGER,
    "seed": OptionType.INTEGER,
    "temperature": OptionType.FLOAT,
    "top_k": OptionType.INTEGER,
    "top_p": OptionType.FLOAT,
    "min_p": OptionType.FLOAT,
    "typical_p": OptionType.FLOAT,
    "repeat_last_n": OptionType.INTEGER,
    "repeat_penalty": OptionType.FLOAT,
    "presence_penalty": OptionType.FLOAT,
    "frequency_penalty": OptionType.FLOAT,
    "stop": OptionType.STRINGS,
}
"""Every field of `Options` and its type."""

RETIRED: Final = frozenset(
    {
        "draft_num_predict",  # known to Ollama; there are no draft models here
        "embedding_only",
        "f16_kv",
        "logits_all",
        "low_vram",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "numa",
        "penalize_newline",
        "tfs_z",
        "use_mlock",
        "vocab_only",
    }
)
"""Names that mean nothing (any more): ignored in requests, warned of and dropped in Modelfiles."""

DEFAULTS: Final = Options(
    num_batch=512,
    num_gpu=-1,
    num_thread=0,
    num_keep=4,
    num_predict=-1,
    seed=-1,
    temperature=0.8,
    top_k=40,
    top_p=0.9,
    min_p=0.0,
    typical_p=1.0,
    repeat_last_n=64,
    repeat_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    stop=(),
)
"""What holds where nobody said anything. num_ctx, main_gpu and use_mmap stay None: the node decides them."""


def parse_options(raw: Mapping[str, Any]) -> tuple[Options, tuple[str, ...]]:
    """Options of a decoded JSON object, and the names in it that are not in the table (for the log).

    Raises: InvalidOption in Ollama's words, e.g. `option "num_ctx" must be of type integer`.
    """
    values: dict[str, Any] = {}
    unknown: list[str] = []
    for name, value in raw.items():
        kind = OPTION_TYPES.get(name)
        if kind is None:
            unknown.append(name)
        elif value is not None:
            values[name] = _READERS[kind](name, value)
    return Options(**values), tuple(unknown)


def overlay(base: Options, over: Options) -> Options:
    """`base` with everything that `over` says laid upon it."""
    said = {name: value for name in OPTION_TYPES if (value := getattr(over, name)) is not None}
    return msgspec.structs.replace(base, **said) if said else base


def said(options: Options) -> dict[str, Any]:
    """The options that are not None, by name, in the table's order."""
    return {name: value for name in OPTION_TYPES if (value := getattr(options, name)) is not None}


def _wrong(name: str, kind: OptionType) -> InvalidOption:
    return InvalidOption(f'option "{name}" must be of type {kind.value}')


def _number(name: str, value: Any, kind: OptionType) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, kind)
    if isinstance(value, float) and not isfinite(value):
        raise _wrong(name, kind)
    return value


def _integer(name: str, value: Any) -> int:
    whole = int(_number(name, value, OptionType.INTEGER))
    return max(-_INT64_MAX - 1, min(whole, _INT64_MAX))


def _float(name: str, value: Any) -> float:
    try:
        return float(_number(name, value, OptionType.FLOAT))
    except OverflowError:  # an integer of more than 308 digits
        raise _wrong(name, OptionType.FLOAT) from None


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, OptionType.BOOLEAN)
    return value


def _strings(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(name, OptionType.STRINGS)
    if not all(isinstance(item, str) for item in value):
        raise InvalidOption(f'option "{name}" must be of an array of strings')
    return tuple(value)


_READERS: Final[Mapping[OptionType, Callable[[str, Any], Any]]] = {
    OptionType.INTEGER: _integer,
    OptionType.FLOAT: _float,
    OptionType.BOOLEAN: _boolean,
    OptionType.STRINGS: _strings,
}
