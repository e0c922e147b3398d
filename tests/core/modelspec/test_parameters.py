from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.errors import InvalidOption
from ollamamax.core.modelspec.parameters import checked, format_parameters, from_text, modelfile_values


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_ctx", "4096", 4096),
        ("seed", "-1", -1),
        ("seed", "9223372036854775807", 2**63 - 1),
        ("seed", "-9223372036854775808", -(2**63)),
        ("temperature", "0.5", 0.5),
        ("temperature", "1", 1.0),
        ("temperature", ".5e-1", 0.05),
        ("use_mmap", "T", True),
        ("use_mmap", "false", False),
        ("stop", "<|im_end|>", ["<|im_end|>"]),
    ],
)
def test_texts_get_their_options_type(name: str, text: str, value: Any) -> None:
    read = from_text(name, text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("warmth", "1", "unknown parameter 'warmth'"),
        ("num_ctx", "1.5", "invalid int value [1.5]"),
        ("num_ctx", "9" * 30, f"invalid int value [{'9' * 30}]"),
        ("seed", "9223372036854775808", "invalid int value [9223372036854775808]"),
        ("num_ctx", "٣", "invalid int value [٣]"),
        ("temperature", "warm", "invalid float value [warm]"),
        ("temperature", "inf", "invalid float value [inf]"),
        ("temperature", "-1e999", "invalid float value [-1e999]"),
        ("use_mmap", "yes", "invalid bool value [yes]"),
    ],
)
def test_bad_texts_are_refused(name: str, text: str, fault: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        from_text(name, text)
    assert str(caught.value) == fault


def test_parameters_of_a_new_model() -> None:
    assert checked({"num_ctx": 8, "mirostat": 1, "seed": None, "stop": ["a"]}) == {"num_ctx": 8, "stop": ["a"]}


@pytest.mark.parametrize(
    ("raw", "fault"),
    [({"warmth": 1}, "unknown parameter 'warmth'"), ({"num_ctx": "8"}, 'option "num_ctx" must be of type integer')],
)
def test_bad_parameters_of_a_new_model(raw: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        checked(raw)
    assert str(caught.value) == fault


def test_the_text_of_show() -> None:
    text = format_parameters(
        {"temperature": 0.8, "stop": ["<|im_end|>", 'say "x"\n'], "num_ctx": 4096, "use_mmap": True, "seed": 2**70}
    )
    assert text.split("\n") == [
        "num_ctx                        4096",
        f"seed                           {2**70}",
        'stop                           "<|im_end|>"',
        'stop                           "say \\"x\\"\\n"',
        "temperature                    0.8",
        "use_mmap                       true",
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (-0.5, "-0.5"),
        (1.0, "1"),
        (100_000, "100000"),
        (131_072, "131072"),
        (123456.75, "123456.75"),
        (1_000_000, "1e+06"),
        (1_048_576, "1.048576e+06"),
        (-2.5e7, "-2.5e+07"),
        (1e100, "1e+100"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (1.25e-7, "1.25e-07"),
        (False, "false"),
    ],
)
def test_numbers_look_as_go_prints_them(number: float, text: str) -> None:
    assert format_parameters({"x": number}) == f"x{' ' * 30}{text}"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_their_value(number: float) -> None:
    assert float(format_parameters({"x": number}).split()[1]) == number


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("num_ctx", 1_048_576), ("num_ctx", 4096.0), ("temperature", 0.7), ("temperature", 1e20)),
        *(("use_mmap", True), ("use_mmap", False), ("stop", ["a", "b"]), ("stop", [])),
    ],
)
def test_parameter_lines_can_be_read_back(name: str, value: Any) -> None:
    lines = modelfile_values({name: value})
    read = [from_text(key, text) for key, text in lines]
    assert read == ([[item] for item in value] if isinstance(value, list) else [value])


@pytest.mark.parametrize(
    ("value", "text"),
    [(4096.9, "4096"), (-1.5, "-1"), (1e18, str(10**18)), (2**70, str(2**63 - 1)), (-1e300, str(-(2**63)))],
)
def test_lines_of_integers_have_neither_fraction_nor_exponent(value: float, text: str) -> None:
    assert modelfile_values({"seed": value}) == [("seed", text)]
    assert from_text("seed", text) == int(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_lines_of_floats_keep_their_value(number: float) -> None:
    ((name, text),) = modelfile_values({"temperature": number})
    assert from_text(name, text) == number
