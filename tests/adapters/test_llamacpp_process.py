"""Our own engines as processes: how they start, fail and end. All with real children."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from llamacpp_support import Launch, answer, ask, gone, launching, spec_of, text_of, until_gone
from models import chain_text, write_llama
from ollamamax.adapters.engines.llamacpp import CRASHED, LlamaCppLauncher
from ollamamax.adapters.system.clock import SystemClock
from ollamamax.core.errors import (
    EngineCrashed,
    EngineUnavailable,
    LoadFailed,
)
from ollamamax.core.types import EmbedRequest
from ollamamax.testing.clock import SeededDice


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    async with launching(tmp_path) as start:
        yield start


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
    key = engine._http._wire._fields.decode().partition("Authorization: Bearer ")[2].split("\r\n")[0]
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
