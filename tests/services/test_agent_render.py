"""What engines are asked, and how their answers are taken apart."""

import random
from typing import Any

import pytest
from agent_world import chat, model

from ollamamax.core.errors import TemplateError, Unsupported
from ollamamax.core.modelspec.output import ThinkingSplitter, ToolCallParser
from ollamamax.core.types import ChatRequest, Chunk, GenerationStats, Message, Options, ResolvedModel, ToolCall
from ollamamax.services.agent_render import (
    AnswerParser,
    Dates,
    Renderer,
    check_capabilities,
    conversation,
    is_empty,
    without_oldest,
)

DATES = Dates("2024-05-02", "2024-05-01")
TOOLS: tuple[dict[str, Any], ...] = (
    {"type": "function", "function": {"name": "add", "description": "", "parameters": {}}},
)
GO = "{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}<assistant>"
GO_TOOLS = (
    "{{ if .Tools }}tools:{{ .Tools }};{{ end }}{{ range .Messages }}<{{ .Role }}>{{ .Content }}"
    "{{ if .ToolCalls }}<call>{{ range .ToolCalls }}{{ .Function.Name }}{{ end }}{{ end }}{{ end }}"
)
GO_THINK = "{{ range .Messages }}<{{ .Role }}>{{ if .Thinking }}[T]{{ .Thinking }}[/T]{{ end }}{{ .Content }}{{ end }}"
JINJA_TOOLS = "{% if tools %}{{ tools }}{% endif %}"
JINJA_THINK = "<think></think>"


def made(request: ChatRequest, of: ResolvedModel) -> tuple[ChatRequest, AnswerParser | None]:
    renderer = Renderer(request, of, request.options, DATES, lambda: "call_1")
    asked = renderer.engine_request(conversation(request, of))
    return asked, renderer.parser(asked)


def refusal(request: ChatRequest, of: ResolvedModel) -> str:
    with pytest.raises(Unsupported) as caught:
        check_capabilities(request, of)
    return str(caught.value)


# -- capabilities ----------------------------------------------------------------------------------------------------


def test_what_a_model_cannot_do_is_told_in_ollamas_words() -> None:
    embedder = model("e", pooling_type=1)
    plain = model("test")
    full = "registry.ollama.ai/library/test:latest"
    assert refusal(chat("E"), embedder) == '"E" does not support chat'
    assert refusal(chat("e", want_context=True), embedder) == '"e" does not support generate'
    assert refusal(ChatRequest(model="e", prompt="x", raw=True), embedder) == '"e" does not support generate'
    assert refusal(chat("test", think=True), plain) == '"test" does not support thinking'
    assert refusal(chat("test", think="low"), plain) == '"test" does not support thinking'
    assert refusal(chat("test", tools=TOOLS), plain) == f"{full} does not support tools"
    assert refusal(chat("test", suffix="x"), plain) == f"{full} does not support insert"
    picture = (Message("user", "look", images=(b"x",)),)
    assert refusal(chat("test", messages=picture), plain) == f"{full} does not support vision"
    both = refusal(chat("test", messages=picture, tools=TOOLS), plain)
    assert both == f"{full} does not support tools\n{full} does not support vision"


def test_sound_needs_a_model_that_hears() -> None:
    sound = (Message("user", "listen", images=(b"RIFF\0\0\0\0WAVE",)),)
    full = "registry.ollama.ai/library/test:latest"
    seeing = model("test", capabilities=("completion", "vision"))
    assert refusal(chat("test", messages=sound), seeing) == f"{full} does not support audio"
    check_capabilities(chat(messages=sound), model(capabilities=("completion", "audio")))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"renderer": "qwen9"}, 'unknown renderer "qwen9"'),
        ({"parser": "qwen9"}, 'unknown parser "qwen9"'),
        ({"renderer": "gemma4", "chat_template": ""}, "tiny:latest names 'gemma4', code of Ollama's"),
        ({"parser": "gemma4", "chat_template": ""}, "has no chat template of its own"),
    ],
)
def test_a_form_that_nobody_knows_is_an_error(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(TemplateError, match=text):
        check_capabilities(chat(), model(**changes))
    check_capabilities(ChatRequest(model="tiny", prompt="x", raw=True), model(**changes))
    check_capabilities(chat(template="{{ .Prompt }}"), model(**changes))


def test_a_form_that_the_engine_knows() -> None:
    check_capabilities(chat(), model(renderer="gemma4", parser="gemma4"))


@pytest.mark.parametrize("of", [model("deepseek-r1"), model("q", details=model().details.__class__(family="qwen3"))])
def test_models_whose_thinking_came_later(of: ResolvedModel) -> None:
    assert refusal(chat("m", think=True), of) == (
        '"m" does not support thinking. Pull the model again to get the latest version with full thinking support'
    )


@pytest.mark.parametrize(
    ("request_", "changes"),
    [
        (chat(), {}),
        (chat(think=False), {}),
        (chat(think=True), {"capabilities": ("completion", "thinking")}),
        (chat(think=True), {"chat_template": JINJA_THINK}),
        (chat(tools=TOOLS), {"capabilities": ("completion", "tools")}),
        (chat(tools=TOOLS), {"chat_template": JINJA_TOOLS}),
        (chat(tools=TOOLS, tool_choice="none"), {}),
        (chat(suffix="x"), {"capabilities": ("completion", "insert")}),
        (chat(suffix="x", template="{{ .Suffix }}"), {}),
        (chat(messages=(Message("user", images=(b"x",)),)), {"capabilities": ("completion", "vision")}),
    ],
)
def test_what_a_model_can_do(request_: ChatRequest, changes: dict[str, Any]) -> None:
    check_capabilities(request_, model(**changes))


def test_empty_requests() -> None:
    assert is_empty(ChatRequest(model="m"))
    assert is_empty(ChatRequest(model="m", prompt=""))
    assert not is_empty(ChatRequest(model="m", prompt="x"))
    assert not is_empty(chat())


# -- the conversation ------------------------------------------------------------------------------------------------


def roles(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


MINE = model(system="be kind", messages=(Message("user", "q"), Message("assistant", "a")))


def test_the_models_own_messages_and_system_come_first() -> None:
    assert roles(conversation(chat(), MINE)) == [
        ("system", "be kind"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "hi"),
    ]


def test_a_conversations_own_system_message_counts() -> None:
    request = chat(messages=(Message("system", "be short"), Message("user", "hi")))
    assert roles(conversation(request, MINE))[:2] == [("user", "q"), ("assistant", "a")]
    assert ("system", "be kind") not in roles(conversation(request, MINE))


def test_system_and_context_of_generate() -> None:
    assert roles(conversation(chat(system="mine"), MINE))[0] == ("system", "mine")
    assert roles(conversation(chat(context=(1, 2)), MINE)) == [("system", "be kind"), ("user", "hi")]


def test_a_raw_prompt_stands_alone() -> None:
    assert conversation(ChatRequest(model="m", prompt="x", raw=True), MINE) == ()


def test_old_thinking_is_not_shown_again() -> None:
    messages = (Message("assistant", "<think>hm</think>yes"), Message("user", "hi"))
    assert conversation(chat(messages=messages), model("deepseek-r1"))[0].content == "yes"
    assert conversation(chat(messages=messages), model())[0].content == "<think>hm</think>yes"


def test_the_oldest_that_may_go() -> None:
    system, one, two = Message("system", "s"), Message("user", "1"), Message("user", "2")
    assert without_oldest((system, one, two)) == (system, two)
    assert without_oldest((one, system, two)) == (system, two)
    assert without_oldest((system, two)) is None
    assert without_oldest((two,)) is None
    assert without_oldest(()) is None


# -- which template --------------------------------------------------------------------------------------------------


def test_without_a_go_template_the_engine_gets_the_messages() -> None:
    request = chat(system="s", options=Options(seed=1), format="json", tools=TOOLS)
    asked, parser = made(request, model(chat_template=JINJA_TOOLS))
    assert parser is None
    assert asked == ChatRequest(
        model="tiny",
        messages=(Message("system", "s"), Message("user", "hi")),
        options=Options(seed=1),
        format="json",
        tools=TOOLS,
    )


def test_a_go_template_is_rendered_here() -> None:
    asked, parser = made(chat(want_context=True, context=(7,)), model(template=GO))
    assert parser is None
    assert asked == ChatRequest(model="tiny", prompt="<user>hi<assistant>", want_context=True, context=(7,))


def test_a_request_may_bring_its_template() -> None:
    asked, _ = made(chat(template="Q: {{ .Prompt }} A:", system="s"), model(template=GO))
    assert (asked.prompt, asked.template, asked.system) == ("Q: hi A:", None, None)
    with pytest.raises(TemplateError):
        made(chat(template="{{ if }}"), model())


def test_filling_in() -> None:
    of = model(template="<pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>")
    asked, _ = made(chat(text="a(", suffix=")"), of)
    assert (asked.prompt, asked.suffix, asked.messages) == ("<pre>a(<suf>)<mid>", "", ())


def test_a_model_without_any_template() -> None:
    asked, _ = made(chat(), model(chat_template=""))
    assert asked.prompt == "hi"


def test_a_raw_prompt_goes_as_it_is() -> None:
    asked, parser = made(ChatRequest(model="m", prompt="{{ x }}", raw=True), model(template=GO))
    assert (asked.prompt, parser) == ("{{ x }}", None)


def test_dates_in_templates() -> None:
    asked, _ = made(chat(template="{{ currentDate }} {{ yesterdayDate }} {{ .Prompt }}"), model())
    assert asked.prompt == "2024-05-02 2024-05-01 hi"


@pytest.mark.parametrize(
    ("request_", "changes", "is_native"),
    [
        (chat(), {"chat_template": JINJA_TOOLS}, False),
        (chat(tools=TOOLS), {"chat_template": JINJA_TOOLS}, True),
        (chat(tools=TOOLS, tool_choice="none"), {"chat_template": JINJA_TOOLS}, False),
        (chat(tools=TOOLS), {"chat_template": "x"}, False),
        (chat(tools=TOOLS, tool_choice="required"), {"chat_template": "x"}, True),
        (chat(), {"chat_template": JINJA_THINK}, True),
        (chat(think=False), {"chat_template": JINJA_THINK}, True),
        (chat(), {"chat_template": "x", "capabilities": ("completion", "thinking")}, False),
        (chat(messages=(Message("user", "x", images=(b"x",)),)), {}, True),
    ],
)
def test_the_gguf_template_where_it_knows_more(request_: ChatRequest, changes: dict[str, Any], is_native: bool) -> None:
    asked, _ = made(request_, model(template=GO_TOOLS, **changes))
    assert (asked.prompt is None) == is_native


@pytest.mark.parametrize(
    ("think", "changes", "expected"),
    [
        (None, {}, None),
        (False, {}, None),
        (None, {"chat_template": JINJA_THINK}, True),
        (False, {"chat_template": JINJA_THINK}, False),
        ("max", {"chat_template": JINJA_THINK}, "max"),
    ],
)
def test_thinking_is_on_where_it_can_be(
    think: bool | str | None, changes: dict[str, Any], expected: bool | str | None
) -> None:
    asked, _ = made(chat(think=think), model(**changes))
    assert asked.think == expected


def test_harmony_knows_no_more_than_high() -> None:
    asked, _ = made(chat(think="max"), model(architecture="gpt-oss", capabilities=("completion", "thinking")))
    assert asked.think == "high"


# -- answers ---------------------------------------------------------------------------------------------------------


def answer(parser: AnswerParser | None, *texts: str) -> list[Chunk]:
    """Feed the texts as chunks with an id for each character, then the final one."""
    assert parser is not None
    last = Chunk(done_reason="stop", stats=GenerationStats(eval_tokens=1))
    fed = [[Chunk(text=text, token_ids=tuple(map(ord, text)))] for text in texts]
    return [chunk for read in [*fed, [last]] for chunk in parser.feed(read)]


def joined(chunks: list[Chunk]) -> tuple[str, str, list[tuple[str, str]]]:
    calls = [(call.name, call.arguments) for chunk in chunks for call in chunk.tool_calls]
    return "".join(chunk.thinking for chunk in chunks), "".join(chunk.text for chunk in chunks), calls


def test_thinking_is_parted_by_the_templates_tags() -> None:
    of = model(template=GO_THINK, chat_template="x", capabilities=("completion", "thinking"))
    _, parser = made(chat(), of)
    chunks = answer(parser, "[T]h", "m[/", "T]\nyes")
    assert joined(chunks) == ("hm", "yes", [])
    assert chunks[-1].done_reason == "stop"
    assert [number for chunk in chunks for number in chunk.token_ids] == list(map(ord, "[T]hm[/T]\nyes"))
    _, parser = made(chat(think=False), of)
    assert parser is None


def test_a_prompt_that_opens_the_thinking() -> None:
    of = model(chat_template="x", capabilities=("completion", "thinking"))
    _, parser = made(chat(template="{{ .Prompt }}<think>"), of)
    assert joined(answer(parser, "hm</think>yes")) == ("hm", "yes", [])
    request = chat(template="{{ .Prompt }}<think>", format="json")
    renderer = Renderer(request, of, request.options, DATES, lambda: "call_1")
    asked = renderer.engine_request(conversation(request, of))
    assert renderer.parser(asked, has_thought=True) is None


def test_calls_are_found_where_the_template_is_ours() -> None:
    asked, parser = made(chat(tools=TOOLS), model(template=GO_TOOLS))
    assert asked.prompt is not None
    assert asked.prompt.startswith('tools:[{"type":"function"')
    assert asked.tools == ()
    chunks = answer(parser, 'ok <call>{"name": "add", ', '"arguments": {"a": 1}}')
    assert joined(chunks)[1:] == ("ok ", [("add", '{"a":1}')])
    assert [chunk.tool_calls for chunk in chunks if chunk.tool_calls] == [
        (ToolCall(id="call_1", index=0, name="add", arguments='{"a":1}'),)
    ]
    assert chunks[-1].tool_calls == ()


def test_text_that_only_looks_like_a_call_is_given_in_the_end() -> None:
    _, parser = made(chat(tools=TOOLS), model(template=GO_TOOLS))
    assert joined(answer(parser, "<call>{never closed")) == ("", "<call>{never closed", [])


def test_logprobs_and_ids_stay_with_the_text_however_it_is_cut() -> None:
    whole = '<think>so</think>I call <call>{"name": "add", "arguments": {}} and go'
    dice = random.Random(7)
    for _ in range(200):
        cuts = sorted(dice.sample(range(1, len(whole)), dice.randint(0, 12)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        parser = AnswerParser(
            ThinkingSplitter("<think>", "</think>", False), ToolCallParser("<call>", TOOLS, lambda: "i")
        )
        chunks = answer(parser, *pieces)
        assert joined(chunks) == ("so", "I call ", [("add", "{}")]), pieces
        assert [number for chunk in chunks for number in chunk.token_ids] == list(map(ord, whole)), pieces


def test_the_final_chunk_keeps_its_stats_and_gives_its_text_away() -> None:
    parser = AnswerParser(ThinkingSplitter("<think>", "</think>", False), None)
    stats = GenerationStats(eval_tokens=3)
    chunks = parser.feed(
        [Chunk(text="<thi", token_ids=(1,)), Chunk(text="n", token_ids=(2,), done_reason="length", stats=stats)]
    )
    assert chunks == [Chunk(text="<thin", token_ids=(1, 2)), Chunk(done_reason="length", stats=stats)]


def test_a_request_to_count_stays_one_however_its_prompt_is_made() -> None:
    for of in (model(), model(template=GO)):
        asked, _ = made(chat(count_only=True), of)
        assert asked.count_only
