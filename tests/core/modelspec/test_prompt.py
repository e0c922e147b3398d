"""Prompts of conversations, worked out by hand for the shapes of common templates."""

from collections.abc import Sequence
from typing import Any

import pytest

from ollamamax.core.errors import BadRequest, TemplateError
from ollamamax.core.modelspec.prompt import (
    render_chat,
    render_fim,
    without_old_thinking,
)
from ollamamax.core.modelspec.template import parse
from ollamamax.core.types import Message, ToolCall

CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""

LLAMA3 = """{{- if .System }}<|start|>system<|end|>

{{ .System }}<|eot|>
{{- end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "system" }}{{ continue }}{{ end }}<|start|>{{ .Role }}<|end|>

{{ .Content }}
{{- if not (and $last (eq .Role "assistant")) }}<|eot|>{{ end }}
{{- if and $last (ne .Role "assistant") }}<|start|>assistant<|end|>

{{ end }}
{{- end }}"""

MISTRAL = """{{- range $index, $_ := .Messages }}
{{- if eq .Role "user" }}[INST] {{ if and (eq (len (slice $.Messages $index)) 1) $.System }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq .Role "assistant" }} {{ .Content }}</s>
{{- end }}
{{- end }}"""

GEMMA = """{{- $system := .System }}
{{- range $i, $_ := .Messages }}
{{- if eq .Role "user" }}<turn>user
{{ if $system }}{{ $system }}

{{ $system = "" }}{{ end }}{{ .Content }}</turn>
{{ else if eq .Role "assistant" }}<turn>model
{{ .Content }}</turn>
{{ end }}
{{- end }}<turn>model
"""

ALPACA = """{{ if .System }}{{ .System }}

{{ end }}{{ if .Prompt }}### Instruction:
{{ .Prompt }}

{{ end }}### Response:
{{ .Response }}

"""

TURNS = (
    "{{ if .System }}<s>{{ .System }}</s>{{ end }}{{ if .Prompt }}<u>{{ .Prompt }}</u>{{ end }}<a>{{ .Response }}</a>"
)

QWEN = """{{- if or .System .Tools }}<|im_start|>system
{{- if .System }}
{{ .System }}
{{- end }}
{{- if .Tools }}

# Tools
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .ToolName }}/{{ .ToolCallID }}: {{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""

SYSTEM, USER, ANSWER, AGAIN = (
    Message("system", "Be kind."),
    Message("user", "Hello"),
    Message("assistant", "Hi!"),
    Message("user", "Bye"),
)
TALK = (SYSTEM, USER, ANSWER, AGAIN)


def render(
    template: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), think: bool | str | None = None
) -> str:
    return render_chat(parse(template), messages, tools, think, "2026-05-02", "2026-05-01")


@pytest.mark.parametrize(
    ("template", "messages", "wanted"),
    [
        (
            CHATML,
            TALK,
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
            "<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            LLAMA3,
            TALK,
            "<|start|>system<|end|>\n\nBe kind.<|eot|><|start|>user<|end|>\n\nHello<|eot|>"
            "<|start|>assistant<|end|>\n\nHi!<|eot|><|start|>user<|end|>\n\nBye<|eot|><|start|>assistant<|end|>\n\n",
        ),
        (LLAMA3, (USER, ANSWER), "<|start|>user<|end|>\n\nHello<|eot|><|start|>assistant<|end|>\n\nHi!"),
        (MISTRAL, TALK, "[INST] Hello[/INST] Hi!</s>[INST] Be kind.\n\nBye[/INST]"),
        (MISTRAL, (USER,), "[INST] Hello[/INST]"),
        (
            GEMMA,
            TALK,
            "<turn>user\nBe kind.\n\nHello</turn>\n<turn>model\nHi!</turn>\n<turn>user\nBye</turn>\n<turn>model\n",
        ),
        (
            ALPACA,
            TALK,
            "Be kind.\n\n### Instruction:\nHello\n\n### Response:\nHi!\n\n### Instruction:\nBye\n\n### Response:\n",
        ),
        (TURNS, TALK, "<s>Be kind.</s><u>Hello</u><a>Hi!</a><u>Bye</u><a>"),
        (TURNS, (USER, ANSWER), "<u>Hello</u><a>Hi!"),
        (TURNS, (), "<a>"),
        ("{{ .Prompt }}", TALK, "HelloHi!Bye"),
        ("{{ .Prompt }}", (USER,), "Hello"),
    ],
    ids=[
        *("chatml", "llama3", "llama3 goes on", "mistral", "mistral without system", "gemma", "alpaca", "turns"),
        *("turns go on", "turns of nothing", "bare prompts", "bare prompt"),
    ],
)
def test_shapes_of_templates(template: str, messages: tuple[Message, ...], wanted: str) -> None:
    assert render(template, messages) == wanted


def test_a_later_system_message_starts_a_turn() -> None:
    later = Message("system", "Be short.")
    assert render(TURNS, (USER, later, AGAIN)) == "<u>Hello</u><a></a><s>Be short.</s><u>Bye</u><a>"
    assert render(TURNS, (USER, ANSWER, later, AGAIN)) == "<u>Hello</u><a>Hi!</a><s>Be short.</s><u>Bye</u><a>"
    assert render(TURNS, (ANSWER, later)) == "<a>Hi!</a><s>Be short.</s><a>"
    assert render(TURNS, (SYSTEM, Message("tool", "ignored"), AGAIN)) == "<s>Be kind.</s><u>Bye</u><a>"


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather & wind",
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}
ASKED = Message(
    "assistant", "", tool_calls=(ToolCall("c1", 0, "get_weather", '{"unit": "c", "city": "Rome", "n": 2}'),)
)
TOLD = Message("tool", "22", tool_name="get_weather", tool_call_id="c1")


def test_tools_their_calls_and_their_answers() -> None:
    tools = (
        '# Tools\n{"type": "function", "function": {"name":"get_weather","description":"Weather \\u0026 wind",'
        '"parameters":{"type":"object","required":["city"],"properties":{"city":{"type":"string"}}}}}<|im_end|>\n'
    )
    rest = (
        "<|im_start|>user\nHello<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "get_weather", "arguments": {"city":"Rome","n":2,"unit":"c"}}\n'
        "</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nget_weather/c1: 22\n</tool_response><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nget_weather/c1: 22\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    talk = (USER, ASKED, TOLD, TOLD)
    assert render(QWEN, (SYSTEM, *talk), [WEATHER]) == "<|im_start|>system\nBe kind.\n\n" + tools + rest
    assert render(QWEN, talk, [WEATHER]) == "<|im_start|>system\n\n" + tools + rest
    assert render(QWEN, talk) == rest


def test_all_of_a_call_and_a_message_can_be_printed() -> None:
    template = (
        "{{ range .Messages }}{{ .Thinking }}{{ range .ToolCalls }}{{ .ID }} {{ .Function.Index }}"
        "{{ range $k, $v := .Function.Arguments }} {{ $k }}={{ $v }}{{ end }}{{ end }}{{ len .Images }};{{ end }}"
    )
    thought = Message("assistant", "", thinking="hm ", tool_calls=ASKED.tool_calls)
    assert render(template, (thought,)) == "hm c1 0 city=Rome n=2 unit=c0;"


@pytest.mark.parametrize("arguments", ["", "[1]", "{", '"a"', '{"a":' * 5000 + "1" + "}" * 5000])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    call = Message("assistant", tool_calls=(ToolCall("c", 0, "f", arguments),))
    with pytest.raises(BadRequest, match="invalid tool call arguments"):
        render(QWEN, (USER, call))


def test_neighbours_of_one_role_are_merged_save_tools() -> None:
    template = (
        "{{ range .Messages }}<{{ .Role }}:{{ .Content }}|{{ .Thinking }}|{{ len .Images }}|{{ len .ToolCalls }}>"
        "{{ end }}"
    )
    messages = (
        Message("user", "a"),
        Message("user", "", images=(b"1",)),
        Message("user", "b", images=(b"2",)),
        Message("assistant", "", thinking="t", tool_calls=ASKED.tool_calls),
        Message("assistant", "c", thinking="u", tool_calls=ASKED.tool_calls),
        TOLD,
        TOLD,
    )
    assert render(template, messages) == (
        "<user:a\n\n[img-0]\n\n[img-1]b||2|0><assistant:c|t\n\nu|0|2><tool:22||0|0><tool:22||0|0>"
    )


def test_system_messages_are_joined_and_stay_where_they_are() -> None:
    template = "{{ .System }}:{{ range .Messages }}<{{ .Role }}:{{ .Content }}>{{ end }}"
    messages = (SYSTEM, Message("system", "Be brief."), USER, Message("system", "Be gone."))
    assert render(template, messages) == (
        "Be kind.\n\nBe brief.\n\nBe gone.:<system:Be kind.\n\nBe brief.><user:Hello><system:Be gone.>"
    )


def test_images_are_marked_in_order() -> None:
    template = "{{ range .Messages }}<{{ .Content }}>{{ if .Images }}{{ .Images }}{{ end }}{{ end }}"
    messages = (
        Message("user", "see [img] and [img]", images=(b"1", b"2", b"3")),
        ANSWER,
        Message("user", "plain [img]"),
        ANSWER,
        Message("user", "last", images=(b"4", b"5")),
    )
    assert render(template, messages) == (
        "<[img-2]see [img-0] and [img-1]>[[img] [img] [img]]<Hi!><plain [img]><Hi!><[img-3][img-4]last>[[img] [img]]"
    )


@pytest.mark.parametrize(
    ("think", "wanted"),
    [
        (None, "false||false"),
        (False, "false||true"),
        (True, "true|medium|true"),
        ("low", "true|low|true"),
        ("max", "true|max|true"),
    ],
)
def test_thinking(think: bool | str | None, wanted: str) -> None:
    values = "{{ .Think }}|{{ .ThinkLevel }}|{{ .IsThinkSet }}"
    assert render("{{ if .Messages }}{{ end }}" + values, (USER,), think=think) == wanted
    assert render(values + "{{ .Response }}", (USER,), think=think) == wanted
    assert render_fim(parse("{{ .Response }}" + values), "a", "b", think, "", "") == wanted


def test_the_dates_reach_all_forms() -> None:
    dates = "{{ currentDate }} {{ yesterdayDate }}"
    assert render("{{ if .Messages }}{{ end }}" + dates, (USER,)) == "2026-05-02 2026-05-01"
    assert render(dates + "{{ .Response }}", (USER,)) == "2026-05-02 2026-05-01"
    assert render_fim(parse(dates), "a", "b", None, "T", "Y") == "T Y"


def test_filling_in() -> None:
    template = parse("{{ if .Suffix }}<pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>{{ else }}{{ .Messages }}{{ end }}")
    assert render_fim(template, "def f(", "return 1", None, "", "") == "<pre>def f(<suf>return 1<mid>"


def test_a_failing_template_says_where() -> None:
    with pytest.raises(TemplateError, match="line 2: can't evaluate field Nope in type Message"):
        render("\n{{ range .Messages }}{{ .Nope }}{{ end }}", (USER,))


def test_old_thinking_is_taken_out_before_the_last_question() -> None:
    answer = Message("assistant", "<think>\nwhy\n</think>\n\nso")
    found = without_old_thinking((answer, USER, answer, AGAIN, answer), "<think>", "</think>")
    clean = Message("assistant", "so")
    assert found == (clean, USER, clean, AGAIN, answer)
    quoting = Message("user", "<think>mine</think>")
    assert without_old_thinking((quoting, ANSWER, AGAIN), "<think>", "</think>") == (quoting, ANSWER, AGAIN)
    assert without_old_thinking((answer,), "<think>", "</think>") == (answer,)
