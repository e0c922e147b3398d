"""Running templates: values, truth, scopes, ranges, what is told of failures, and the bounds of the work."""

from typing import Any

import pytest

from ollamamax.core.errors import TemplateError
from ollamamax.core.modelspec.template import evaluate, parse
from ollamamax.core.modelspec.template.values import MAX_TEXT_CHARS, JsonList, JsonMap, Record, TypeNames

PERSON = Record("Person", {"Name": "Ann", "Age": 7, "Nick": None})
DATA: dict[str, Any] = {
    "Messages": [],
    "S": "text",
    "E": "",
    "Zero": 0,
    "One": 1,
    "F": 1.5,
    "Yes": True,
    "No": False,
    "List": ["x", "y"],
    "None": [],
    "Map": {"b": 2, "a": 1},
    "Person": PERSON,
    "People": [PERSON, Record("Person", {"Name": "Bob", "Age": 8, "Nick": "B"})],
    "Tool": Record("Tool", {"Name": "t"}, {"name": "t", "z": 1, "a": [1.0, "<>&\u2028"]}, prints_json=True),
    "Arguments": JsonMap({"b": "<", "a": None}),
    "Tools": JsonList([1, {"z": True, "y": 2.5}]),
    "Types": TypeNames(["string", "null"]),
    "Type": TypeNames(["string"]),
    "Nothing": None,
}


def run(text: str, **data: Any) -> str:
    return parse("{{ if .Messages }}{{ end }}" + text).render({**DATA, **data}, "2026-05-02", "2026-05-01")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{{ .S }}{{ .Zero }}{{ .F }}{{ .Yes }}{{ .No }}{{ .E }}", "text01.5truefalse"),
        ("{{ .Missing }}", "<no value>"),
        ("{{ .Nothing }}", "<no value>"),
        ("{{ $.Missing }}", "<no value>"),
        ("{{ (.Missing).Field }}", "<no value>"),
        ("{{ .List }}", "[x y]"),
        ("{{ .None }}", "[]"),
        ("{{ .Map }}", "map[a:1 b:2]"),
        ("{{ .Person }}", "{Ann 7 <nil>}"),
        ("{{ .Person.Name }} {{ .Person.Nick }}", "Ann <no value>"),
        ("{{ .Tool }}", '{"name":"t","z":1,"a":[1,"\\u003c\\u003e\\u0026\\u2028"]}'),
        ("{{ .Arguments }}", '{"a":null,"b":"\\u003c"}'),
        ("{{ .Tools }}", '[1,{"y":2.5,"z":true}]'),
        ("{{ .Types }} {{ .Type }}", "[string null] string"),
        ("{{ json .Types }} {{ json .Type }}", '["string","null"] "string"'),
        ("{{ json .Person }}", '{"Name":"Ann","Age":7,"Nick":null}'),
        ("{{ json .Map }}", '{"a":1,"b":2}'),
        ("{{ currentDate }} {{ yesterdayDate }}", "2026-05-02 2026-05-01"),
        ('{{ currentDate "%Y" }} {{ "%Y" | currentDate }}', "2026-05-02 2026-05-02"),
        ("{{ print currentDate }}", "2026-05-02"),
        ("{{ .S | print | len }}", "4"),
        ("{{ (.S) }}", "text"),
        ("{{ $x := 1 | print 2 }}{{ $x }}", "2 1"),
        # ranges
        ("{{ range $k, $v := .Map }}{{ $k }}={{ $v }} {{ end }}", "a=1 b=2 "),
        ("{{ range .Map }}{{ . }}{{ end }}", "12"),
        ("{{ range .People }}{{ .Name }} of {{ $.S }}, {{ end }}", "Ann of text, Bob of text, "),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        ("{{ range $i := 3 }}{{ $i }}{{ end }}", "012"),
        ("{{ range 0 }}1{{ else }}none{{ end }}", "none"),
        ("{{ range -1 }}1{{ else }}none{{ end }}", "none"),
        ("{{ range .Missing }}1{{ else }}none{{ end }}", "none"),
        ("{{ range .None }}1{{ else }}{{ .S }}{{ end }}", "text"),
        ("{{ range .None }}1{{ end }}", ""),
        ("{{ range $i, $v := .List }}{{ $y := $i }}{{ end }}{{ range .List }}{{ $y := . }}{{ $y }}{{ end }}", "xy"),
        # scopes
        ("{{ $x := 1 }}{{ range .List }}{{ $x = print $x . }}{{ end }}{{ $x }}", "1xy"),
        ("{{ $x := 1 }}{{ range .List }}{{ $x := print $x . }}{{ $x }} {{ end }}{{ $x }}", "1x 1y 1"),
        ("{{ $x := 1 }}{{ with $x := 2 }}{{ $x }}{{ . }}{{ end }}{{ $x }}", "221"),
        ("{{ $x := 1 }}{{ if $y := .No }}{{ else }}{{ $x = $y }}{{ end }}{{ $x }}", "false"),
        ("{{ with .Person }}{{ .Name }}{{ $.S }}{{ else }}-{{ end }}", "Anntext"),
        ("{{ with .E }}1{{ else }}{{ .S }}{{ end }}", "text"),
        # short circuits
        ("{{ and .S .Person.Name }} {{ and .E .Person.Nope }} {{ and 1 2 0 3 }}", "Ann  0"),
        ("{{ or .E .S }} {{ or .S .Person.Nope }} {{ or .E .Zero }}", "text text 0"),
        ("{{ 1 | and 2 }} {{ 0 | or .E }} {{ 1 | and }} {{ 5 | or 4 }}", "1 0 1 4"),
    ],
)
def test_what_is_written(text: str, wanted: str) -> None:
    assert run(text) == wanted


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        *((name, True) for name in (".S", ".One", ".F", ".Yes", ".List", ".Map", ".Person", ".Arguments", "-1", '" "')),
        *((name, False) for name in (".E", ".Zero", ".No", ".None", ".Missing", ".Nothing", "0.0", "(slice .List 2)")),
    ],
)
def test_truth(condition: str, wanted: bool) -> None:
    assert run(f"{{{{ if {condition} }}}}yes{{{{ else }}}}no{{{{ end }}}}") == ("yes" if wanted else "no")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("\n{{ .S.Field }}", "line 2: can't evaluate field Field in type string"),
        ("{{ .Person.Nope }}", "line 1: can't evaluate field Nope in type Person"),
        ("{{ .One.A }}", "can't evaluate field A in type int"),
        ("{{ .List.A }}", "can't evaluate field A in type []interface {}"),
        ("{{ .Missing.Field }}", "nil pointer evaluating interface {}.Field"),
        ("{{ .Person.Nick.Field }}", "nil pointer evaluating interface {}.Field"),
        ("{{ $.Missing.Field }}", "nil pointer evaluating interface {}.Field"),
        ("{{ nil }}", "nil is not a command"),
        ("{{ .S 1 }}", "can't give an argument to what is no function"),
        ("{{ 1 | .S }}", "can't give an argument to what is no function"),
        ("{{ $x := 1 }}{{ $x 2 }}", "can't give an argument to what is no function"),
        ("{{ (print) 1 }}", "can't give an argument to what is no function"),
        ("{{ 1 2 }}", "can't give an argument to what is no function"),
        ("{{ nil 2 }}", "can't give an argument to what is no function"),
        ("{{ $x = 1 }}", "undefined variable: $x"),
        (
            "{{ if .No }}{{ $x = 1 }}{{ else }}{{ end }}{{ if 1 }}{{ $x := 1 }}{{ end }}{{ $y = 1 }}",
            "undefined variable: $y",
        ),
        ("{{ range .S }}{{ end }}", "range can't iterate over a value of type string"),
        ("{{ range .F }}{{ end }}", "range can't iterate over a value of type float64"),
        ("{{ range .Yes }}{{ end }}", "range can't iterate over a value of type bool"),
        ("{{ range .Person }}{{ end }}", "range can't iterate over a value of type Person"),
        ("{{ range $i, $v := 3 }}{{ end }}", "range can't iterate over a value of type int"),
        ("{{ and }}", "wrong number of args for and: want at least 1 got 0"),
        ("{{ or }}", "wrong number of args for or: want at least 1 got 0"),
        ("{{ not }}", "wrong number of args for not: want 1 got 0"),
        ("{{ len 1 2 }}", "wrong number of args for len: want 1 got 2"),
        ("{{ slice }}", "wrong number of args for slice: want 1 to 4 got 0"),
        ("{{ index }}", "wrong number of args for index: want at least 1 got 0"),
        ("a\n{{ .S }}\n{{ if .S }}\n\n{{ len\n\n 1 }}{{ end }}", "line 5: len of type int"),
    ],
)
def test_what_fails(text: str, cause: str) -> None:
    with pytest.raises(TemplateError) as caught:
        run(text)
    assert cause in str(caught.value)
    assert str(caught.value).startswith("line ")


def test_an_assigned_variable_may_only_be_missed_where_it_is_run() -> None:
    assert run("{{ if .No }}{{ $x = 1 }}{{ end }}fine") == "fine"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{{ range 1000000000 }}{{ end }}", "takes more than"),
        ("{{ range 1000000 }}{{ .Nope }}{{ end }}", "can't evaluate field"),
        ("{{ range 9999999 }}{{ range $.Huge }}{{ break }}{{ end }}{{ end }}", "takes more than"),
        ("{{ range 9999999 }}{{ $x := slice $.Huge 1 }}{{ end }}", "takes more than"),
        ("{{ range 9999999 }}{{ $x := len $.Long }}{{ end }}", "takes more than"),
        ("{{ range 9999999 }}{{ $x := eq $.Long $.Long }}{{ end }}", "takes more than"),
        ('{{ range 9999999 }}{{ $x := printf "%.0s" $.Huge }}{{ end }}', "takes more than"),
        ("{{ range 9999999 }}{{ $x := $.Map" + ".a" * 1 + " }}{{ end }}", "takes more than"),
        ("{{ range 9999999 }}{{ $.Long }}{{ end }}", "writes more than 8388608 characters"),
        ("{{ print" + " .Long" * 9 + " }}", "print: texts of more than"),
        ("{{ $x := .Long }}{{ range 99 }}{{ $x = print $x $x }}{{ end }}", "print: texts of more than"),
        ("{{ $x := print .Long .Long }}{{ $y := js $x }}", "js: a text of more than"),
        ('{{ printf "' + "%9999d" * 840 + '"' + " 1" * 840 + " }}", "printf: a text of more"),
        ("{{ range 9999999 }}" + "x" * 99999 + "{{ end }}", "writes more than"),
    ],
)
def test_hostile_templates_are_stopped(text: str, cause: str) -> None:
    with pytest.raises(TemplateError, match=cause):
        run(text, Huge=["xyz"] * 100_000, Long="<" * 1_000_000)


def test_many_variables_make_each_search_dearer() -> None:
    count = evaluate.MAX_STEPS // 100
    declared = "".join(f"{{{{$v{number}:=1}}}}" for number in range(count))
    with pytest.raises(TemplateError, match="takes more than"):
        run(declared + "{{range 9999}}{{$v0}}{{end}}")
    assert run(declared + "{{range 9}}{{$v0}}{{end}}") == "111111111"


def test_values_nested_without_end_are_an_error() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(TemplateError, match="line 1: the values are nested too deeply"):
        run("{{ .Nested }}", Nested=nested)


def test_a_text_at_the_bound_is_written() -> None:
    assert len(run("{{ .Long }}", Long="x" * MAX_TEXT_CHARS)) == MAX_TEXT_CHARS
