import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.errors import InvalidOption
from ollamamax.core.options import DEFAULTS, OPTION_TYPES, RETIRED, OptionType, overlay, parse_options, said
from ollamamax.core.types import Options

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
GOOD = {
    OptionType.INTEGER: st.integers(-(1 << 63), (1 << 63) - 1),
    OptionType.FLOAT: st.floats(allow_nan=False, allow_infinity=False),
    OptionType.BOOLEAN: st.booleans(),
    OptionType.STRINGS: st.lists(st.text()).map(tuple),
}
OPTIONS = st.fixed_dictionaries({}, optional={name: GOOD[kind] for name, kind in OPTION_TYPES.items()})


def test_the_table_is_the_struct() -> None:
    assert tuple(OPTION_TYPES) == Options.__struct_fields__
    assert not RETIRED & OPTION_TYPES.keys()


def test_defaults_are_ollamas() -> None:
    assert said(DEFAULTS) == {
        "num_batch": 512,
        "num_gpu": -1,
        "num_thread": 0,
        "num_keep": 4,
        "num_predict": -1,
        "seed": -1,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repeat_last_n": 64,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": (),
    }


def test_unknown_names_are_told_and_nulls_skipped() -> None:
    options, unknown = parse_options({"num_ctx": None, "warmth": 1, "top_k": 5, "Top_K": 6, "mirostat": 2})
    assert options == Options(top_k=5)
    assert unknown == ("warmth", "Top_K", "mirostat")


def test_fractions_are_cut_towards_zero() -> None:
    assert parse_options({"num_ctx": 4096.9, "seed": -1.9})[0] == Options(num_ctx=4096, seed=-1)


def test_integers_are_floats_where_floats_are_meant() -> None:
    (options, _) = parse_options({"temperature": 1})
    assert isinstance(options.temperature, float)


@pytest.mark.parametrize(("value", "kept"), [(1e300, (1 << 63) - 1), (-(10**30), -(1 << 63))])
def test_integers_keep_within_64_bits(value: float, kept: int) -> None:
    assert parse_options({"seed": value})[0].seed == kept


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("num_ctx", "4096", "of type integer"),
        ("num_ctx", True, "of type integer"),
        ("num_ctx", math.nan, "of type integer"),
        ("temperature", "warm", "of type float32"),
        ("temperature", False, "of type float32"),
        ("temperature", math.inf, "of type float32"),
        ("temperature", 10**400, "of type float32"),
        ("use_mmap", 1, "of type boolean"),
        ("stop", "x", "of type array"),
        ("stop", ["x", 1], "of an array of strings"),
    ],
)
def test_wrong_types_are_refused_in_ollamas_words(name: str, value: Any, text: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_options({name: value})
    assert str(caught.value) == f'option "{name}" must be {text}'


@given(OPTIONS)
def test_what_is_said_is_what_was_read(raw: dict[str, Any]) -> None:
    options, unknown = parse_options(raw)
    assert said(options) == raw
    assert unknown == ()


@given(OPTIONS, OPTIONS)
def test_overlay_is_a_merge_of_dicts(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = overlay(parse_options(base)[0], parse_options(over)[0])
    assert said(merged) == {**base, **over}


@given(st.dictionaries(st.sampled_from([*OPTION_TYPES, "other"]), JSON))
def test_any_json_is_read_or_refused(raw: dict[str, Any]) -> None:
    try:
        options, _ = parse_options(raw)
    except InvalidOption:
        return
    msgspec.json.encode(options)
