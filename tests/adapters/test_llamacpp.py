"""Our own engines: what they answer. All with real children."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

import ollamamax
from llamacpp_support import Launch, answer, ask, ids_of, launching, spec_of, talk, text_of
from models import CYCLE, FIRST_BYTE, chain_text
from ollamamax.adapters.engines.llamacpp import TOO_LONG, LlamaCppLauncher
from ollamamax.adapters.system.clock import SystemClock
from ollamamax.core.errors import (
    InputTooLong,
    InvalidOption,
    Unsupported,
)
from ollamamax.core.types import EmbedRequest, Options
from ollamamax.testing.clock import SeededDice

TOOLS = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]},
        },
    }
    for name in ("add", "look")
)
THINKING = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}"
TINY = Path(ollamamax.__file__).parent / "data/tiny/tiny.gguf"
CALLING = (
    "{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>\n{{ c | tojson }}\n</tool_call>{% endfor %}\n{% endfor %}assistant:"
)


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    async with launching(tmp_path) as start:
        yield start


async def test_ids_stand_beside_their_text_even_across_characters_of_many_tokens(launch: Launch) -> None:
    cycle = "abé😀漢"
    engine = await launch(chain=True, cycle=cycle)
    chunks = await answer(engine, ask(num_predict=33))
    assert text_of(chunks) == chain_text("a", 33, cycle)
    assert {chunk.text: chunk.token_ids for chunk in chunks if chunk.text} == {
        character: tuple(FIRST_BYTE + byte for byte in character.encode()) for character in cycle
    }


async def test_text_held_for_a_stop_string_that_never_comes_is_not_lost(launch: Launch) -> None:
    engine = await launch(chain=True)
    chunks = await answer(engine, ask(num_predict=9, stop=("ijX",)))
    assert text_of(chunks) == "bcdefghij"
    assert ids_of(chunks) == [FIRST_BYTE + ord(character) for character in "bcdefghij"]
    assert chunks[-1].done_reason == "length"


async def test_the_end_token_has_no_id_in_the_answer(launch: Launch) -> None:
    engine = await launch(chain=True, ends=True, cycle="abcd")
    chunks = await answer(engine, ask(num_predict=50))
    assert text_of(chunks) == "bcd"
    assert ids_of(chunks) == [FIRST_BYTE + ord(character) for character in "bcd"]
    assert chunks[-1].done_reason == "stop"


async def test_context_continues_the_talk(launch: Launch) -> None:
    engine = await launch(chain=True)
    first = await answer(engine, ask("xy", 3, want_context=True))
    context = first[-1].context
    assert context[0] == 1
    assert context[-5:] == tuple(FIRST_BYTE + ord(character) for character in "xyzAB")
    second = await answer(engine, ask("q", 2, context=context, want_context=True))
    assert text_of(second) == "rs"
    assert second[-1].context[: len(context)] == context
    assert second[-1].stats is not None
    assert second[-1].stats.prompt_tokens == len(second[-1].context) - 2


async def test_logprobs(launch: Launch) -> None:
    engine = await launch(chain=True)
    chunks = await answer(engine, ask(num_predict=2, logprobs=True, top_logprobs=3))
    (first,) = chunks[0].logprobs
    assert (first.token, first.bytes, len(first.top)) == ("b", (98,), 3)
    assert first.logprob == pytest.approx(0.0, abs=1e-3)
    assert first.top[0].token == "b"
    bare = await answer(engine, ask(num_predict=2, logprobs=True))
    assert bare[0].logprobs[0].top == ()


async def test_a_prompt_beyond_the_context_is_refused(launch: Launch) -> None:
    engine = await launch(chain=True)
    with pytest.raises(InputTooLong) as caught:
        await answer(engine, ask("a" * 600, truncate=False))
    assert str(caught.value) == TOO_LONG
    shifting = await launch({"context_shift": False}, chain=True)
    with pytest.raises(InputTooLong, match="longer than the context length"):
        await answer(shifting, ask("a" * 600))


async def test_the_middle_of_a_prompt_may_be_left_out(launch: Launch) -> None:
    engine = await launch(chain=True)
    chunks = await answer(engine, ask("a" * 600 + "xyz", 3, want_context=True))
    assert text_of(chunks) == "AB" + chain_text("B", 1)
    kept = chunks[-1].context[:-3]
    assert (
        len(kept) == 5 + (512 - 5) // 2
    )  # the head with the token that the tokenizer puts in front, and half of the rest
    assert kept[0] == 1
    assert kept[-3:] == tuple(FIRST_BYTE + ord(character) for character in "xyz")


@pytest.mark.parametrize("template", [None, THINKING])
async def test_the_middle_of_a_message_may_be_left_out(launch: Launch, template: str | None) -> None:
    engine = await launch(**({"template": template} if template else {}))
    chunks = await answer(engine, talk(3, content="x" * 600))
    assert chunks[-1].stats is not None
    assert chunks[-1].stats.prompt_tokens < 512
    with pytest.raises(InputTooLong):  # llama.cpp's own endpoint for tools takes whole messages only
        await answer(engine, talk(3, content="x" * 600, tools=TOOLS))


async def test_a_prompt_that_repeats_itself_ends_with_a_last_chunk(launch: Launch) -> None:
    engine = await launch(chain=True, cycle="a")
    chunks = await answer(engine, ask("a", 60))
    assert text_of(chunks) == "a" * 60
    assert chunks[-1].done_reason == "length"


async def test_a_prompt_is_shown(launch: Launch) -> None:
    engine = await launch(template=CALLING)
    (shown,) = await answer(engine, talk(1, tools=TOOLS, render_only=True))
    assert '"name": "add"' in shown.text
    assert shown.text.endswith("user: hiassistant:")
    (verbatim,) = await answer(engine, ask("as it is", render_only=True))
    assert (verbatim.text, verbatim.done_reason) == ("as it is", "load")


@pytest.mark.parametrize("shape", ["prompt", "messages"])
async def test_a_schema_holds(launch: Launch, shape: str) -> None:
    engine = await launch(seed=3)
    schema = (
        '{"type":"object","properties":{"city":{"enum":["Rome","Paris"]},"sure":{"type":"boolean"}},'
        '"required":["city","sure"]}'
    )
    request = ask(num_predict=120, format=schema) if shape == "prompt" else talk(120, format=schema)
    made = msgspec.json.decode(text_of(await answer(engine, request)))
    assert made["city"] in ("Rome", "Paris")
    assert isinstance(made["sure"], bool)
    with pytest.raises(InvalidOption, match="invalid format"):
        await answer(engine, ask(format="{"))


@pytest.mark.parametrize(("template", "choice"), [(None, "required"), (None, "=look"), (CALLING, "=look")])
async def test_tools_can_be_forced(launch: Launch, template: str | None, choice: str) -> None:
    """Also of a model whose template knows no tools."""
    engine = await launch(**({"template": template} if template else {}))
    chunks = await answer(engine, talk(400, tools=TOOLS, tool_choice=choice))
    calls = [call for chunk in chunks for call in chunk.tool_calls]
    assert calls, text_of(chunks)
    assert calls[0].name in (("add", "look") if choice == "required" else ("look",))
    assert isinstance(msgspec.json.decode(calls[0].arguments)["n"], bool)
    assert calls[0].id
    assert chunks[-1].done_reason == "stop"


@pytest.mark.parametrize("choice", ["auto", "required", "=look", "none"])
@pytest.mark.parametrize("template", [CALLING, THINKING])
async def test_tokens_are_counted_of_the_very_prompt(launch: Launch, choice: str, template: str) -> None:
    engine = await launch(template=template)
    request = talk(1, tools=TOOLS, tool_choice=choice)
    (counted,) = await answer(engine, msgspec.structs.replace(request, count_only=True))
    stats = (await answer(engine, request))[-1].stats
    assert counted.stats is not None
    assert stats is not None
    assert counted.stats.prompt_tokens == stats.prompt_tokens


async def test_counting_what_can_be_counted(launch: Launch) -> None:
    engine = await launch()
    (counted,) = await answer(engine, ask("x" * 2000, context=(1, 2, 3), count_only=True))
    assert counted.stats is not None
    assert counted.stats.prompt_tokens > 2000 + 3  # also what no answer could be given to
    with pytest.raises(Unsupported, match="images"):
        await answer(engine, talk(images=(b"\x89PNG",), count_only=True))


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_tiny_calls_a_tool(choice: str) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    engine = await LlamaCppLauncher(SystemClock(), SeededDice()).launch(spec_of(TINY, ctx_tokens=1024))
    try:
        request = talk(100, content="What is the weather in Paris?", tools=(tool,), tool_choice=choice)
        chunks = await answer(engine, msgspec.structs.replace(request, options=Options(temperature=0.0)))
    finally:
        await engine.close()
    (call,) = [call for chunk in chunks for call in chunk.tool_calls]
    assert (call.name, msgspec.json.decode(call.arguments)) == ("get_weather", {"city": "Paris"})
    assert not text_of(chunks)


async def test_a_forced_call_that_is_cut_is_told_as_text(launch: Launch) -> None:
    engine = await launch()
    chunks = await answer(engine, talk(5, tools=TOOLS, tool_choice="required"))
    assert text_of(chunks).startswith("{")
    assert chunks[-1].done_reason == "length"
    with pytest.raises(InvalidOption, match="'nothing'"):
        await answer(engine, talk(5, tools=TOOLS, tool_choice="=nothing"))


async def test_tools_that_are_not_called(launch: Launch) -> None:
    engine = await launch(chain=True)
    chunks = await answer(engine, talk(7, tools=TOOLS))
    assert text_of(chunks) == CYCLE[:7]
    assert chunks[-1].stats is not None
    assert chunks[-1].stats.eval_tokens == 7


async def test_thinking_is_parted_from_content(launch: Launch) -> None:
    engine = await launch(chain=True, cycle="abc</think>xyz", template=THINKING)
    chunks = await answer(engine, talk(20))
    assert "".join(chunk.thinking for chunk in chunks) == "abc"
    assert text_of(chunks) == "xyzabc</t"
    assert len(ids_of(chunks)) == 20


async def test_images_need_a_projector(launch: Launch) -> None:
    engine = await launch()
    with pytest.raises(Unsupported, match="images"):
        await answer(engine, talk(images=(b"\x89PNG",)))


async def test_embedding_cuts_or_refuses_what_is_too_long(launch: Launch) -> None:
    engine = await launch({"embedding": True, "ctx_tokens": 256, "batch_tokens": 128}, pooling=1)
    short = await engine.embed(EmbedRequest(model="m", inputs=("why is the sky blue?",)), "m")
    # <s>, the letters, and the spaces (one of them before the text), which have three bytes each
    assert short.prompt_tokens == 1 + 16 + 5 * 3
    for length in (150, 2000):  # beyond the batch, beyond the context
        cut = await engine.embed(EmbedRequest(model="m", inputs=("x" * length,)), "m")
        assert cut.prompt_tokens == 128
        with pytest.raises(InputTooLong, match="the input length exceeds the context length"):
            await engine.embed(EmbedRequest(model="m", inputs=("x" * length,), truncate=False), "m")
    assert (await engine.embed(EmbedRequest(model="m", inputs=()), "m")).vectors == ()


async def test_a_model_that_does_not_embed(launch: Launch) -> None:
    engine = await launch()
    with pytest.raises(Unsupported, match=r"^this model does not support embeddings$"):
        await engine.embed(EmbedRequest(model="m", inputs=("x",)), "m")
