"""Text, actions and blocks: what parses, what it gives, and where the rest is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.errors import TemplateError
from ollamamax.core.modelspec.template import parse
from ollamamax.core.modelspec.template.parser import MAX_DEPTH
from ollamamax.core.modelspec.template.tree import MAX_TEMPLATE_CHARS

DATA = {"Messages": [], "Response": "", "A": "a", "N": 3, "List": ["x", "y"], "Deep": {"Er": {"Est": "e"}}}


def run(text: str) -> str:
    """Rendered with DATA; a comment-like mention keeps .Response from being appended."""
    return parse(text + "{{ if .Response }}{{ end }}").render(dict(DATA), "2026-05-02", "2026-05-01")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ""),
        ("no actions { } }} here", "no actions { } }} here"),
        ("{{ .A }}", "a"),
        ("{{.A}}", "a"),
        ("{{\n\t.A\r\n}}", "a"),
        ("1 {{ .A }} 2", "1 a 2"),
        ("1 \t\r\n{{- .A }} 2", "1a 2"),
        ("1 {{ .A -}} \t\r\n 2", "1 a2"),
        ("1 {{- .A -}} 2", "1a2"),
        ("1 {{- .A\n-}} 2", "1a2"),
        ("1 {{- 3 }} {{ -3 }} {{-3}} {{- -3 -}} 2", "13 -3 -3-32"),
        ("\u00a0{{- .A }}", "\u00a0a"),  # no white space to Go's trimming
        ("a{{/* gone */}}b", "ab"),
        ("a {{- /* gone\n too */ -}} b", "ab"),
        ("a {{- /* .Unknown {{ }} */}} b", "a b"),
        ("a {{/* * / */ -}} b", "a b"),
        ("a{{`{{raw}}\\n`}}b", "a{{raw}}\\nb"),
        ("{{`a\r\nb`}}", "a\nb"),
        ('{{ "q\\"\\\\\\t\\n\\x41\\u00e9\\U0001f600\\101\\a" }}', 'q"\\\t\nA\u00e9\U0001f600A\a'),
        ("{{ '\\'' }} {{ 'a' }} {{ '\u00e9' }}", "39 97 233"),
        ("{{ 0 }} {{ 12 }} {{ +7 }} {{ 1_000 }}", "0 12 7 1000"),
        ("{{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 017 }} {{ -0x10 }}", "31 5 15 15 -16"),
        ("{{ 1.5 }} {{ .5 }} {{ 1e3 }} {{ 2. }} {{ -1.5e-7 }}", "1.5 0.5 1000 2 -1.5e-07"),
        ("{{ true }} {{ false }}", "true false"),
        ("{{ .Deep.Er.Est }} {{ $.Deep.Er.Est }} {{ (.Deep).Er.Est }}", "e e e"),
        ('{{ (index .Deep "Er").Est }}', "e"),
        ("{{ $x := .Deep }}{{ $x.Er.Est }}{{ $x = .A }}{{ $x }}", "ea"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x }}{{ end }}{{ $x }}", "22"),
        ("{{ if $x := .A }}{{ $x }}{{ end }}", "a"),
        ("{{ print (1) (2)|print }}", "1 2"),
        ("{{ if false }}1{{ else if false }}2{{ else if true }}3{{ else }}4{{ end }}", "3"),
        ("{{ if false }}1{{ else if false }}2{{ else }}4{{ end }}", "4"),
        ("{{ if false }}1{{ end }}", ""),
        ("{{ with .A }}{{ . }}{{ end }}", "a"),
        ("{{ with false }}1{{ else with .A }}{{ . }}{{ else }}2{{ end }}", "a"),
        ("{{ with false }}1{{ else }}{{ .A }}{{ end }}", "a"),
        ("{{ range .List }}{{ . }}{{ else }}none{{ end }}", "xy"),
        ("{{ range $v := .List }}{{ $v }}{{ end }}", "xy"),
        ("{{ range $i, $v := .List }}{{ $i }}{{ $v }}{{ end }}", "0x1y"),
        ("{{ $i := 9 }}{{ $v := 9 }}{{ range $i, $v = .List }}{{ end }}{{ $i }}{{ $v }}", "1y"),
        ("{{ $v := 9 }}{{ range $v = .List }}{{ end }}{{ $v }}", "y"),
        ("{{ range .List }}{{ continue }}{{ . }}{{ end }}.", "."),
        ("{{ range .List }}{{ . }}{{ break }}{{ end }}.", "x."),
        ('{{ range .List }}{{ if eq . "x" }}{{ continue }}{{ end }}{{ . }}{{ end }}.', "y."),
        ("{{ range 2 }}{{ range $.List }}{{ break }}{{ end }}{{ . }}{{ end }}", "01"),
        ("{{ .ending }}", "<no value>"),
    ],
)
def test_what_is_written(text: str, wanted: str) -> None:
    assert run(text) == wanted


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a\nb{{ .A", "line 2: unclosed action"),
        ("{{", "line 1: unclosed action"),
        ("{{ . }\n}", "line 1: unexpected '}' in action"),
        ('{{ "a }}', "line 1: unterminated string"),
        ('{{ "a\n" }}', "line 1: unterminated string"),
        ("{{ `a }}", "line 1: unterminated string"),
        ("{{ 'a }}", "line 1: unterminated character constant"),
        ("{{ 'ab' }}", "line 1: malformed character constant: 'ab'"),
        ('{{ "\\q" }}', "line 1: unknown escape in"),
        ('{{ "\\N{BULLET}" }}', "line 1: unknown escape in"),
        ('{{ "\\U00110000" }}', "line 1: unknown escape in"),
        ('{{ "\\ud800" }}', "line 1: unknown escape in"),
        ("{{ /* a */ }}", "line 1: unexpected '/' in action"),
        ("{{/* a }}", "line 1: unclosed comment"),
        ("{{/* a */ }}", "line 1: unclosed comment"),
        ("{{/* a */ b */}}", "line 1: comment ends before closing delimiter"),
        ("\n\n{{ # }}", "line 3: unexpected '#' in action"),
        ("{{ .A$ }}", "line 1: bad character '$' after '.A'"),
        ("{{ $=1 }}", "line 1: bad character '=' after '$'"),
        ("{{ end-}}", "line 1: bad character '-' after 'end'"),
        ("{{ 1x }}", "line 1: bad number syntax: '1x'"),
        ("{{ 0b2 }}", "line 1: bad number syntax: '0b2'"),
        ("{{ 1__0 }}", "line 1: bad number syntax: '1__0'"),
        ("{{ 0x }}", "line 1: bad number syntax: '0x'"),
        ("{{ 1i }}", "line 1: bad number syntax: '1i'"),
        ("{{ 9223372036854775808 }}", "line 1: integer overflow: 9223372036854775808"),
        ("{{ 1e999 }}", "line 1: number overflow: 1e999"),
        ("{{ " + "1" * 65 + " }}", "line 1: a number is too long"),
        ("{{ - }}", "line 1: unexpected '-' in action"),
        ("{{}}", "line 1: missing value for command"),
        ("{{ if }}{{ end }}", "line 1: missing value for if"),
        ("{{ $x := }}", "line 1: missing value for command"),
        ("{{ () }}", "line 1: missing value for parenthesized pipeline"),
        ("{{ .A | }}", "line 1: empty command"),
        ("{{ | .A }}", "line 1: empty command"),
        ("{{ print 1 | 2 }}", "line 1: non executable command in pipeline stage 2"),
        ("{{ print 1 | nil }}", "line 1: non executable command in pipeline stage 2"),
        ("{{ print 1 | . }}", "line 1: non executable command in pipeline stage 2"),
        ("{{ (.A }}", "line 1: unexpected '}}' in operand"),
        ("{{ .A) }}", "line 1: unexpected ')' in operand"),
        ("{{ ) }}", "line 1: unexpected ')' in operand"),
        ("{{ .A,.A }}", "line 1: unexpected ',' in operand"),
        ("{{ .A, }}", "line 1: unexpected ',' in operand"),
        ("{{ print(1) }}", "line 1: unexpected '(' in operand"),
        ('{{ "a""b" }}', "line 1: unexpected 'b' in operand"),
        ("{{ true.A }}", "line 1: unexpected . after a term: .A"),
        ("{{ nil.A }}", "line 1: unexpected . after a term: .A"),
        ('{{ "a".B.C }}', "line 1: unexpected . after a term: .B.C"),
        ("{{ nope 1 }}", "line 1: function 'nope' not defined"),
        ("{{ call .A }}", "line 1: function 'call' not defined"),
        ("{{ print if }}", "line 1: unexpected 'if' in operand"),
        ("{{ $x }}", "line 1: undefined variable '$x'"),
        ("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", "line 1: undefined variable '$x'"),
        ("{{ range $x := .List }}{{ end }}{{ $x }}", "line 1: undefined variable '$x'"),
        ("{{ $x, $y := .List }}", "line 1: too many declarations in command"),
        ("{{ range $x, .List }}{{ end }}", "line 1: range can only initialize variables"),
        ("{{ range $x, $y .List }}{{ end }}", "line 1: unexpected '.List' in the declarations of a range"),
        ("{{ range $x, $y, $z := .List }}{{ end }}", "line 1: unexpected ',' in the declarations of a range"),
        ("{{ end }}", "line 1: unexpected {{end}}"),
        ("{{ else }}", "line 1: unexpected {{else}}"),
        ("{{ if true }}", "line 1: unexpected end of the template in {{if}} of line 1"),
        ("\n{{ range .List }}\n{{ .A }}", "line 3: unexpected end of the template in {{range}} of line 2"),
        ("{{ if true }}{{ else }}", "line 1: unexpected end of the template in {{if}} of line 1"),
        ("{{ if true }}{{ else if true }}", "line 1: unexpected end of the template in {{if}} of line 1"),
        ("{{ if true }}{{ else }}{{ else }}{{ end }}", "line 1: a second else"),
        ("{{ if true }}{{ else with .A }}{{ end }}", "line 1: unexpected 'with' in else"),
        ("{{ range .List }}{{ else range .List }}{{ end }}", "line 1: unexpected 'range' in else"),
        ("{{ if true }}{{ end .A }}", "line 1: unexpected '.A' in end"),
        ("{{ break }}", "line 1: {{break}} outside {{range}}"),
        ("{{ range .List }}{{ end }}{{ continue }}", "line 1: {{continue}} outside {{range}}"),
        ("{{ range .List }}{{ else }}{{ break }}{{ end }}", "line 1: {{break}} outside {{range}}"),
        ("{{ range .List }}{{ break 1 }}{{ end }}", "line 1: unexpected 1 in break"),
        ('{{ define "a" }}{{ end }}', "line 1: unsupported action 'define'"),
        ('{{ template "a" . }}', "line 1: unsupported action 'template'"),
        ('{{ block "a" . }}{{ end }}', "line 1: unsupported action 'block'"),
        ("{{" + "(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1) + "}}", f"nested more than {MAX_DEPTH} deep"),
        ("{{ if 1 }}" * (MAX_DEPTH + 1), f"nested more than {MAX_DEPTH} deep"),
        ("{{ if 1 }}" + "{{ else if 1 }}" * MAX_DEPTH, f"nested more than {MAX_DEPTH} deep"),
        ("a" * (MAX_TEMPLATE_CHARS + 1), "more than 262144 characters"),
    ],
)
def test_what_is_refused(text: str, cause: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(text)
    assert cause in str(caught.value)
    assert str(caught.value).startswith("line ")


def test_the_deepest_nesting_is_run() -> None:
    half = MAX_DEPTH // 2
    text = "{{ if 1 }}" * half + "{{" + "(" * half + ".A" + ")" * half + "}}" + "{{ end }}" * half
    assert run(text) == "a"


def test_many_blocks_side_by_side_are_not_deep() -> None:
    assert run("{{ if 1 }}{{ (1) }}{{ end }}" * (MAX_DEPTH + 1)) == "1" * (MAX_DEPTH + 1)


_PIECES = st.sampled_from(
    [
        *(
            "{{",
            "}}",
            "{{-",
            "-}}",
            " ",
            "\n",
            "(",
            ")",
            "|",
            ",",
            ":=",
            "=",
            "$",
            "$x",
            ".",
            ".A",
            ".List",
            ".Deep.Er",
        ),
        *(
            "if",
            "else",
            "end",
            "range",
            "with",
            "break",
            "continue",
            "define",
            "nil",
            "true",
            "eq",
            "and",
            "len",
            "index",
        ),
        *("slice", "printf", "print", "json", "currentDate", "1", "-1", "0x", "1.5", '"a"', '"%d%s%5.2f%*d"', "`", '"'),
        *("'a'", "/*", "*/", "text", "é", "\\", "<", "{", "}"),
    ]
)


def outcome(text: str) -> str:
    """What is written, or what the TemplateError says."""
    try:
        return parse(text).render(dict(DATA), "2026-05-02", "2026-05-01")
    except TemplateError as error:
        return f"error: {error}"


@given(st.lists(_PIECES, max_size=40).map("".join) | st.text(max_size=60))
def test_whatever_it_is_it_renders_or_is_a_template_error(text: str) -> None:
    found = outcome(text)
    assert not found.startswith("error: ") or found.startswith("error: line ")
    assert "{{" in text or found == text


@given(st.lists(_PIECES, max_size=12).map(" ".join))
def test_whatever_an_action_holds_it_renders_or_is_a_template_error(inner: str) -> None:
    for text in (f"{{{{ {inner} }}}}", f"{{{{ range $x := .List }}}}{{{{ {inner} }}}}{{{{ end }}}}"):
        found = outcome(text)
        assert not found.startswith("error: ") or found.startswith("error: line ")
