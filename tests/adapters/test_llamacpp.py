"""Our own engines: what only they do. All with real child processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from structlog.testing import capture_logs

from models import CYCLE, FIRST_BYTE, chain_text, write_llama
from ollamamax.adapters.engines.llamacpp import CRASHED, TOO_LONG, LlamaCppEngine, LlamaCppLauncher
from ollamamax.adapters.system.clock import SystemClock
from ollamamax.core.errors import (
    EngineCrashed,
    EngineUnavailable,
    InputTooLong,
    InvalidOption,
    LoadFailed,
    Unsupported,
)
from ollamamax.core.types import ChatRequest, Chunk, EmbedRequest, LaunchSpec, Message, Options
from ollamamax.testing.clock import SeededDice

Launch = Callable[..., Awaitable[LlamaCppEngine]]

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
CALLING = (
    "{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>\n{{ c | tojson }}\n</tool_call>{% endfor %}\n{% endfor %}assistant:"
)


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """Writes a model and starts a child on it; all are closed in the end."""
    launcher = LlamaCppLauncher(SystemClock(), SeededDice(7))
    engines: list[LlamaCppEngine] = []

    async def start(spec: dict[str, Any] | None = None, **model: Any) -> LlamaCppEngine:
        path = write_llama(tmp_path / f"{len(engines)}.gguf", **model)
        engines.append(await launcher.launch(spec_of(path, **(spec or {}))))
        return engines[-1]

    async with asyncio.timeout(60):
        yield start
        for engine in engines:
            await engine.close()
            assert not psutil.pid_exists(engine.pid)


def spec_of(path: Path, **more: Any) -> LaunchSpec:
    return LaunchSpec(**{"key": "k", "name": "m", "model_path": str(path), "ctx_tokens": 512, "parallel": 1, **more})


def ask(prompt: str = "a", num_predict: int = 20, **more: Any) -> ChatRequest:
    options = Options(num_predict=num_predict, temperature=0.0, stop=more.pop("stop", None))
    return ChatRequest(model="m", prompt=prompt, options=options, **more)


def talk(num_predict: int = 20, **more: Any) -> ChatRequest:
    message = Message("user", more.pop("content", "hi"), images=more.pop("images", ()))
    return ChatRequest(model="m", messages=(message,), options=Options(num_predict=num_predict, seed=1), **more)


async def answer(engine: LlamaCppEngine, request: ChatRequest) -> list[Chunk]:
    return [chunk async for read in engine.generate(request, "m") for chunk in read]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def ids_of(chunks: list[Chunk]) -> list[int]:
    return [number for chunk in chunks for number in chunk.token_ids]


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def until_gone(pid: int, limit_s: float) -> None:
    async with asyncio.timeout(limit_s):
        while not gone(pid):
            await asyncio.to_thread(psutil.wait_procs, [psutil.Process(pid)], 0.05)


async def test_a_killed_child_fails_all_its_streams(launch: Launch) -> None:
    engine = await launch({"parallel": 2, "ctx_tokens": 4096}, chain=True, context=4096)
    begun = [asyncio.Event(), asyncio.Event()]
    texts = ["", ""]

    async def read(number: int) -> None:
        async for chunks in engine.generate(ask(num_predict=4000), "m"):
            texts[number] += text_of(chunks)
            begun[number].set()

    readers = [asyncio.create_task(read(number)) for number in range(2)]
    for mine in begun:
        await mine.wait()
    os.kill(engine.pid, signal.SIGKILL)
    for failure, text in zip(await asyncio.gather(*readers, return_exceptions=True), texts, strict=True):
        assert isinstance(failure, EngineCrashed)
        assert str(failure) == CRASHED
        assert text
        assert chain_text("a", 4000).startswith(text)
    assert await engine.exited() == "killed by signal 9 (SIGKILL)"
    with pytest.raises(EngineUnavailable):
        await engine.models()


PARENT = """
import asyncio, sys, structlog
from ollamamax.adapters.engines.llamacpp_process import ChildProcess
from ollamamax.core.types import LaunchSpec

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    spec = LaunchSpec(key="k", name="m", model_path=sys.argv[1], ctx_tokens=256)
    child = await ChildProcess.start(sys.executable, spec, "key")
    if sys.argv[2] == "ready":
        await child.port()
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["ready", "loading"])
async def test_the_child_dies_with_its_parent(tmp_path: Path, moment: str) -> None:
    """Also while native code loads a model and holds the interpreter's lock: there the kernel's signal does it."""
    path = tmp_path / "m.gguf"
    if moment == "ready":
        write_llama(path)
    elif sys.platform == "linux":
        os.mkfifo(path)  # opening it blocks: a load without an end
    else:
        pytest.skip("only Linux signals a closed pipe")
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(path), moment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert parent.stdout is not None
    assert parent.stderr is not None
    try:
        async with asyncio.timeout(30):
            pid = int(await parent.stdout.readline())
            while moment == "loading" and b"load_model: loading model" not in await parent.stderr.readline():
                pass
            assert not gone(pid)
    finally:
        parent.kill()
    await until_gone(pid, 2.0)
    await parent.communicate()


async def test_a_cancelled_launch_leaves_no_child(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    os.mkfifo(path)
    launcher = LlamaCppLauncher(SystemClock(), SeededDice())
    before = set(psutil.Process().children())
    launching = asyncio.create_task(launcher.launch(spec_of(path)))
    async with asyncio.timeout(20):
        while not (children := set(psutil.Process().children()) - before):
            await asyncio.sleep(0)
        launching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launching
    assert all(gone(child.pid) for child in children)


async def test_the_key_is_in_no_place_that_others_can_read(launch: Launch) -> None:
    engine = await launch()
    key = engine._http._headers["Authorization"].removeprefix("Bearer ")
    assert len(key) == 48
    child = psutil.Process(engine.pid)
    assert key not in " ".join(child.cmdline())
    assert key not in " ".join(child.environ().values())


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def foreign(data: bytes) -> bytes:
    return b"PK\x03\x04" + data[4:]


def of_unknown_architecture(data: bytes) -> bytes:
    return data.replace(b"llama", b"lxama")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (truncated, "not within the file bounds.*create or pull it again"),
        (foreign, "magic.*create or pull it again"),
        (of_unknown_architecture, "unknown model architecture: 'lxama'.*update OllamaMax"),
    ],
)
async def test_a_bad_model_is_refused_with_the_reason(
    tmp_path: Path, harm: Callable[[bytes], bytes], told: str
) -> None:
    path = write_llama(tmp_path / "m.gguf")
    path.write_bytes(harm(path.read_bytes()))
    with capture_logs() as logs:
        async with asyncio.timeout(30):
            with pytest.raises(LoadFailed, match=f"model m could not be loaded: .*{told}"):
                await LlamaCppLauncher(SystemClock(), SeededDice()).launch(spec_of(path))
    assert any(entry["log_level"] == "warning" and entry["model"] == "m" and entry["pid"] for entry in logs)


async def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    launcher = LlamaCppLauncher(SystemClock(), SeededDice(), python=str(tmp_path / "nothing"))
    with pytest.raises(LoadFailed, match="could not be started"):
        await launcher.launch(spec_of(tmp_path / "m.gguf"))


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
        await answer(engine, ask("a" * 600))
    assert str(caught.value) == TOO_LONG


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


async def test_a_closed_engine_is_unavailable(launch: Launch) -> None:
    engine = await launch()
    await engine.close()
    assert await engine.exited() == "stopped"
    for call in (engine.models(), answer(engine, ask()), engine.embed(EmbedRequest(model="m", inputs=("x",)), "m")):
        with pytest.raises(EngineUnavailable):
            await call


async def test_closing_ends_answers_under_way_as_unavailable(launch: Launch) -> None:
    engine = await launch({"ctx_tokens": 4096}, chain=True, context=4096)
    stream = engine.generate(ask(num_predict=4000), "m")
    await anext(stream)
    closing = asyncio.create_task(engine.close())
    with pytest.raises(EngineUnavailable):
        async for _ in stream:
            pass
    await closing


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
