"""The functions of templates, each beside what Go makes of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.errors import TemplateError
from ollamamax.core.modelspec.template import parse
from ollamamax.core.modelspec.template.formatting import MAX_WIDTH
from ollamamax.core.modelspec.template.values import Record, TypeNames, float_text, kind_of, size_of, to_json, to_text


def tool_property(*types: str, any_of: list[Record] | None = None) -> Record:
    return Record("ToolProperty", {"AnyOf": any_of or [], "Type": TypeNames(types)})


DATA: dict[str, Any] = {
    "Messages": [],
    "S": "h\u00e9llo",
    "L": ["x", "y", "z"],
    "Empty": [],
    "M": {"a": 1, "b": {"c": "deep"}},
    "R": Record("Thing", {"A": 1}),
    "T": True,
    "F": 2.5,
    "String": tool_property("string"),
    "Several": tool_property("integer", "null", "array", "object", "boolean", "number", "odd"),
    "Untyped": tool_property(),
    "Either": tool_property(any_of=[tool_property("string"), tool_property("number")]),
}


def run(action: str) -> str:
    return parse("{{ if .Messages }}{{ end }}{{ " + action + " }}").render(DATA, "", "")


@pytest.mark.parametrize(
    ("action", "wanted"),
    [
        ("not 0", "true"),
        ("not .S", "false"),
        # comparisons
        ("eq 1 1", "true"),
        ("eq 1 2 3 1", "true"),
        ('eq "a" "b"', "false"),
        ("eq true true", "true"),
        ("eq 1.5 1.5", "true"),
        ("eq .No nil", "true"),
        ("eq .S nil", "false"),
        ("eq nil .S", "false"),
        ("eq .Empty nil", "true"),
        ("eq nil .L", "false"),
        ("ne 1 2", "true"),
        ('ne "a" "a"', "false"),
        ("lt 1 2", "true"),
        ("lt 2 2", "false"),
        ('lt "a" "b"', "true"),
        ("le 2 2", "true"),
        ("le 3 2", "false"),
        ("gt 3 2", "true"),
        ("gt 2 2", "false"),
        ("ge 2 2", "true"),
        ("ge 1 2", "false"),
        ("lt 1.5 2.5", "true"),
        # len, index, slice
        ("len .S", "6"),
        ('len "abc"', "3"),
        ("len .L", "3"),
        ("len .M", "2"),
        ("index .L 1", "y"),
        ('index .M "a"', "1"),
        ('index .M "b" "c"', "deep"),
        ('index .M "no"', "<no value>"),
        ("index .S 1", "195"),
        ("index .L", "[x y z]"),
        ("slice .L", "[x y z]"),
        ("slice .L 1", "[y z]"),
        ("slice .L 1 2", "[y]"),
        ("slice .L 3", "[]"),
        ("slice .L 0 1 2", "[x]"),
        ("slice .S 3", "llo"),
        ("slice .S 0 1", "h"),
        ("slice .S 0 2", "h\ufffd"),
        ("slice .S", "h\u00e9llo"),
        # printing
        ("print", ""),
        ('print "a" "b"', "ab"),
        ("print 1 2", "1 2"),
        ('print 1 "a" 2', "1a2"),
        ("print .M .L nil", "map[a:1 b:map[c:deep]] [x y z] <nil>"),
        ('println 1 "a" .T', "1 a true\n"),
        ("println", "\n"),
        # escapes
        ('html "<a href=\'x\'>&\\"\\x00"', "&lt;a href=&#39;x&#39;&gt;&amp;&#34;\ufffd"),
        ("html 1 2", "1 2"),
        ('js "it\'s \\"<b>\\" & \\\\ = \\n"', 'it\\\'s \\"\\u003Cb\\u003E\\" \\u0026 \\\\ \\u003D \\u000A'),
        ('urlquery "a b&c/\u00e9~-_."', "a+b%26c%2F%C3%A9~-_."),
        # json
        ('json "<&>"', '"\\u003c\\u0026\\u003e"'),
        ("json 1.0", "1"),
        ("json 1.5", "1.5"),
        ("json nil", "null"),
        ("json .M", '{"a":1,"b":{"c":"deep"}}'),
        ("json .R", '{"A":1}'),
        # types of TypeScript
        ("toTypeScriptType .String", "string"),
        ("toTypeScriptType .Several", "number | null | any[] | Record<string, any> | boolean | number | any"),
        ("toTypeScriptType .Untyped", "any"),
        ("toTypeScriptType .Either", "string | number"),
        ("toTypeScriptType .R", "any"),
        ("toTypeScriptType 1", "any"),
    ],
)
def test_what_functions_give(action: str, wanted: str) -> None:
    assert run(action) == wanted


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ('"%s %v|%d%%" "a" .T 3', "a true|3%"),
        ('"%5s|%-5s|%05s|%.2s|%5.1s" "ab" "ab" "ab" "abc" "abc"', "   ab|ab   |000ab|ab|    a"),
        ('"%5d|%-5d|%05d|%+d|% d|%05d" 42 42 42 42 42 -42', "   42|42   |00042|+42| 42|-0042"),
        ('"%x %X %#x %o %b" 255 255 255 8 5', "ff FF 0xff 10 101"),
        ('"%c %q %U %c" 233 233 233 -1', "\u00e9 '\u00e9' U+00E9 \ufffd"),
        ('"%q %#v %.2q" "a\\"b\\n\\x01\\u2028\\U000e0001" "x" "abc"', '"a\\"b\\n\\x01\\u2028\\U000e0001" "x" "ab"'),
        ('"%x %X % x" "h\u00e9" "h\u00e9" "h\u00e9"', "68c3a9 68C3A9 68 c3 a9"),
        ('"%t %v" .T false', "true false"),
        (
            '"%f %.2f %8.3f %e %g %G %v" 2.5 2.5 2.5 2.5 2.5 1e-7 2.5',
            "2.500000 2.50    2.500 2.500000e+00 2.5 1E-07 2.5",
        ),
        ('"%+g %+.1f % v %.3v %.1g" 2.5 2.5 2.5 2.5678 2.56', "+2.5 +2.5  2.5 2.57 3"),
        ('"%+v" -2.5', "-2.5"),
        (
            '"%T %T %T %T %T %T %T %T" 1 "a" .T 1.5 .L .M nil .R',
            "int string bool float64 []interface {} map[string]interface {} <nil> Thing",
        ),
        ('"%v %s %d" .L .L (slice .L 3)', "[x y z] [x y z] []"),
        ('"%q" .L', '["x" "y" "z"]'),
        ('"%s %v %s %v" .R .M .M nil', "{1} map[a:1 b:map[c:deep]] map[a:1 b:map[c:deep]] <nil>"),
        ('"%*d|%-*d|%.*f" 5 42 5 42 1 2.55', "   42|42   |2.5"),
        ('"%*d" -5 42', "42   "),
        ('"%*d|" "x" 42', "42|"),
        ('"%.f|%.s|" 2.5 "abc"', "2||"),
        # mistakes are spelled out
        ('"%d" "hi"', "%!d(string=hi)"),
        ('"%s %s" 5 nil', "%!s(int=5) %!s(<nil>)"),
        ('"%s %t" .T 1', "%!s(bool=true) %!t(int=1)"),
        ('"%d %z" 1.5 "a"', "%!d(float64=1.5) %!z(string=a)"),
        ('"%d" .R', "%!d(Thing={1})"),
        ('"%d %d" 1', "1 %!d(MISSING)"),
        ('"%*d"', "%!d(MISSING)"),
        ('"%s" "a" 2 nil', "a%!(EXTRA int=2, <nil>)"),
        ('"%"', "%!(NOVERB)"),
        ('"100%% %[1]d" 1', "100% %![(int=1)1]d"),
    ],
)
def test_printf(arguments: str, wanted: str) -> None:
    assert run("printf " + arguments) == wanted


@pytest.mark.parametrize(
    ("action", "cause"),
    [
        ("eq 1", "missing argument for comparison"),
        ('eq 1 "a"', "incompatible types for comparison"),
        ("eq 1 1.0", "incompatible types for comparison"),
        ("eq 1 true", "incompatible types for comparison"),
        ("eq .L .L", "invalid type for comparison"),
        ('eq "a" .L', "invalid type for comparison"),
        ("eq .R .R", "invalid type for comparison"),
        ('lt 1 "a"', "incompatible types for comparison"),
        ("lt true false", "invalid type for comparison"),
        ("lt nil 1", "invalid type for comparison"),
        ("ge .M 1", "invalid type for comparison"),
        ("len 3", "len of type int"),
        ("len nil", "len of type <nil>"),
        ("index .L 3", "index out of range: 3"),
        ("index .L -1", "index out of range: -1"),
        ('index .L "a"', "cannot index slice/array with type string"),
        ("index .L nil", "cannot index slice/array with nil"),
        ("index .L true", "cannot index slice/array with type bool"),
        ("index .M 1", "value has type int; should be string"),
        ("index nil 1", "index of untyped nil"),
        ("index 5 1", "can't index item of type int"),
        ("index .S 6", "index out of range: 6"),
        ("slice nil", "slice of untyped nil"),
        ("slice .M", "can't slice item of type map[string]interface {}"),
        ("slice .S 0 1 2", "cannot 3-index slice a string"),
        ("slice .L 4", "index out of range: 4"),
        ("slice .L 2 1", "invalid slice index: 2 > 1"),
        ("slice .L 0 2 1", "invalid slice index: 0 > 2 > 1"),
        ("printf 1", "wrong type for value; expected string; got int"),
        ("printf nil", "wrong type for value; expected string; got <nil>"),
        (f'printf "%{MAX_WIDTH + 1}d" 1', "printf: a width of more than 10000"),
        (f'printf "%.{MAX_WIDTH + 1}f" 1.5', "printf: a width of more than 10000"),
        (f'printf "%*d" {MAX_WIDTH + 1} 1', "printf: a width of more than 10000"),
        ("ne 1", "wrong number of args for ne: want 2 got 1"),
    ],
)
def test_what_functions_refuse(action: str, cause: str) -> None:
    with pytest.raises(TemplateError) as caught:
        run(action)
    assert str(caught.value) == f"line 1: {cause}"


def test_the_widest_field_is_printed() -> None:
    assert run(f'printf "%{MAX_WIDTH}d" 1') == "1".rjust(MAX_WIDTH)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (100000.0, "100000"),
        (999999.5, "999999.5"),
        (1e6, "1e+06"),
        (-1234567.0, "-1.234567e+06"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (1e100, "1e+100"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_floats_print_as_go_prints_them(value: float, wanted: str) -> None:
    assert float_text(value) == wanted


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_printed_floats_read_back(value: float) -> None:
    assert float(float_text(value)) == value


def test_json_of_numbers() -> None:
    assert to_json([1e20, 1e21, 2.0, 2.5, -3.0, True, 7]) == "[100000000000000000000,1e+21,2,2.5,-3,true,7]"


def test_sizes_count_all_that_is_written() -> None:
    value = ["abc", {"k": "de"}, Record("R", {"A": "f", "B": 1}), None]
    assert size_of(value) == len("abcdef") + 16 * (4 + 1 + 2)


def test_kinds_of_lists_and_maps_with_a_text_of_their_own() -> None:
    assert kind_of(TypeNames(["a"])) == "[]interface {}"
    assert to_text(TypeNames()) == ""
