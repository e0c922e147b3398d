"""What a parse tree tells of a model, and the cut after the response."""

import pytest

from ollamamax.core.modelspec.template import parse


def render(text: str, **data: object) -> str:
    return parse(text).render(data, "", "")


def test_a_template_that_writes_no_response_gets_one_appended() -> None:
    assert render("{{ .Prompt }}:", Prompt="p", Response="r") == "p:r"
    assert render("{{ .Prompt }}: {{ .Response }}.", Prompt="p", Response="r") == "p: r."
    assert render("{{ range .Messages }}{{ . }}{{ end }}", Messages=["m"], Response="r") == "m"
    assert render("", Response="r") == "r"


def test_names_are_those_of_all_fields_in_lower_case() -> None:
    template = parse(
        "{{ if .Tools }}{{ else }}{{ $x := .System }}{{ $x.ToolCalls }}{{ (index .Messages 0).Role }}"
        "{{ with (len (slice $.Suffix 1)) }}{{ range .List }}{{ json .Deep.Er }}{{ end }}{{ end }}{{ end }}"
    )
    names = ("tools", "system", "toolcalls", "messages", "role", "suffix", "list", "deep", "er")
    assert all(map(template.uses, names))
    assert not any(map(template.uses, ("x", "index", "len", "Tools", "thinking", "")))


def test_words_in_text_and_comments_are_no_names() -> None:
    template = parse('.Tools {{/* .Suffix */}}{{ ".Thinking" }}')
    assert not any(map(template.uses, ("tools", "suffix", "thinking")))
    assert template.uses("response")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{{ .Prompt }}|{{ .Response }}|end", "p|r"),
        ("{{ if .Prompt }}<{{ .Response }}>{{ else }}no{{ end }}|end", "<r"),
        ("{{ if .No }}1{{ else }}<{{ .Response }}>{{ end }}|end", "<r"),
        ("{{ with .Prompt }}{{ . }}{{ end }}{{ with .Response }}{{ . }}!{{ end }}", "pr!"),
        ("{{ range .List }}{{ . }}{{ $.Response }},{{ end }}.", "xr,yr,."),
        ("{{ if .Response }}a{{ end }}{{ print (print .Response) }}|{{ .Response }}", "ar"),
        ("{{ if .Response }}a{{ end }}b", "ab"),
    ],
)
def test_the_cut_keeps_all_up_to_the_response(text: str, wanted: str) -> None:
    data = {"Prompt": "p", "Response": "r", "List": ["x", "y"]}
    assert parse(text).until_response().render(data, "", "") == wanted


def test_the_cut_leaves_the_template_itself_whole() -> None:
    template = parse("{{ .Response }}!")
    assert template.until_response().render({"Response": "r"}, "", "") == "r"
    assert template.render({"Response": "r"}, "", "") == "r!"


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        (
            "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}",
            ("<think>", "</think>"),
        ),
        (
            "{{ range $i, $m := $.Messages }}a{{ if $m.Thinking }}\n <t>\n{{ $m.Thinking }}\n</t> {{ end }}b{{ end }}",
            ("<t>", "</t>"),
        ),
        ("{{ range .Messages }}{{ if .A }}{{ else }}[{{ .Thinking }}]{{ end }}{{ end }}", ("[", "]")),
        # the last one counts
        (
            "{{ range .Messages }}{{ if .A }}1{{ .Thinking }}2{{ end }}{{ if .B }}3{{ .Thinking }}4{{ end }}{{ end }}",
            ("3", "4"),
        ),
        # not between texts, not within the messages, not at all
        ("{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}{{ end }}{{ end }}", None),
        ("{{ range .Messages }}{{ if .Thinking }}{{ .Thinking }}</think>{{ end }}{{ end }}", None),
        ("<think>{{ .Thinking }}</think>{{ range .Messages }}{{ end }}", None),
        ("{{ range .Messages }}{{ range .ToolCalls }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}", None),
        ("{{ range .Messages }}<think>{{ .Content }}</think>{{ end }}", None),
        ("{{ .Prompt }}", None),
    ],
)
def test_thinking_tags(text: str, tags: tuple[str, str] | None) -> None:
    assert parse(text).thinking_tags() == tags


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ('{{ if .ToolCalls }}<tool_call>\n{{ range .ToolCalls }}{"name"{{ end }}{{ end }}', "<tool_call>"),
        ('{{ if .ToolCalls }}\r\n[TOOL\r\nCALLS] [{"name": "{{ .Name }}"{{ end }}', "[TOOL\nCALLS] ["),
        ('{{ if .ToolCalls }}{{ range .ToolCalls }}{"name": "{{ .Name }}"{{ end }}{{ end }}', "{"),
        ("{{ if .ToolCalls }}[{{ end }}", "["),
        ("{{ if .ToolCalls }} \n {{ .Content }}text{{ end }}", "{"),
        ("{{ if .ToolCalls }} \n {{ end }}", "{"),
        ("{{ if .ToolCalls }}{{ if .A }} {{ else }}<b>{{ end }}{{ end }}", "<b>"),
        ("{{ if .ToolCalls }}{{ with .A }}{{ .B }}{{ end }}<late>{{ end }}", "{"),
        ("{{ range .Messages }}{{ if .A }}1{{ else if .ToolCalls }}<c>{{ end }}{{ end }}", "<c>"),
        (
            "{{ if .A }}{{ range .B }}{{ else }}{{ with .C }}{{ if $.ToolCalls }}<d>{{ end }}"
            "{{ end }}{{ end }}{{ end }}",
            "<d>",
        ),
        ("{{ if and .A .ToolCalls }}<e>{{ end }}", "<e>"),
        ("{{ range .Messages }}{{ if .A }}{{ end }}{{ end }}{{ range .ToolCalls }}<f>{{ end }}", None),
        ("{{ .Prompt }}", None),
    ],
)
def test_tool_tag(text: str, tag: str | None) -> None:
    assert parse(text).tool_tag() == tag
