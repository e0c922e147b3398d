"""The extra hop: an engine on another node against the same engine here, over the real link (mTLS on loopback).

Two processes: this one is the node that asks (PeerEngine over the link), its child the node that answers (listener,
EngineHost, accounts, engine). The engine is synthetic and costs next to nothing; what it does cost is measured by the
same load without the hop, and taken off. Figures are CPU time of both processes together.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from common import CpuMeter, machine, median
from ollamamax.adapters.identity import papers
from ollamamax.adapters.identity.authority import FileAuthority
from ollamamax.adapters.network.peer_link import TlsPeerLink
from ollamamax.adapters.network.peer_server import PeerServer
from ollamamax.adapters.system.clock import SystemClock
from ollamamax.api.server import new_event_loop
from ollamamax.core.types import (
    ChatRequest,
    Chunk,
    EmbedRequest,
    EmbedResult,
    EngineKind,
    EngineModel,
    GenerationStats,
    LoadedModel,
    NodeRecord,
    Options,
)
from ollamamax.ports import ChunkStream, Engine, NodeKeys
from ollamamax.services.engine_host import EngineHost
from ollamamax.services.fleet import Fleet, FleetConfig
from ollamamax.services.peer_engine import PeerEngine
from ollamamax.testing.clock import SeededDice
from ollamamax.testing.engine import MemoryEngineBook, TwinConnector

HERE, THERE = "a" * 16, "b" * 16
MODEL = "bench:latest"
CHUNKS = 200
ROUNDS = 3
PACE_MS = 10
CHUNK = Chunk(text="token ", token_ids=(1234,))
LAST = Chunk(done_reason="stop", stats=GenerationStats(prompt_tokens=10, eval_tokens=CHUNKS))


class Pace:
    """Wakes all who wait, every PACE_MS: one timer for all streams."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def next(self) -> None:
        """Returns at the next beat."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_later(PACE_MS / 1000, self._beat)
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        await future

    def _beat(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class FastEngine:
    """`num_predict` chunks, one by one: each at the next beat if `seed` is 1, else as fast as they go."""

    kind = EngineKind.LLAMACPP
    slots = 4096
    last_load_ms = 0.0

    def __init__(self) -> None:
        self._pace = Pace()

    async def models(self) -> tuple[EngineModel, ...]:
        """The only one."""
        return (EngineModel(MODEL, MODEL, loaded=True),)

    def loaded(self) -> Sequence[LoadedModel]:
        """None that are worth a row."""
        return ()

    async def generate(self, request: ChatRequest, served_as: str) -> ChunkStream:
        """The answer."""
        is_paced = request.options.seed == 1
        for number in range(request.options.num_predict or 1):
            if is_paced and number:
                await self._pace.next()
            elif number % 8 == 0:
                await asyncio.sleep(0)  # an engine's answer comes through a socket, several chunks per read
            yield [CHUNK]
        yield [LAST]

    async def embed(self, request: EmbedRequest, served_as: str) -> EmbedResult:
        """Nothing."""
        return EmbedResult(())

    async def describe(self, served_as: str) -> dict[str, Any] | None:
        """Nothing."""
        return None

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class Result:
    """One path. cpu_*: microseconds per chunk, of all processes."""

    name: str
    first_us: float
    cpu_paced_us: float
    cpu_burst_us: float


async def answer_peers(keys: NodeKeys) -> None:
    """The other node: runs until its standard input ends."""
    clock = SystemClock()
    engine = FastEngine()
    fleet = Fleet(engine, TwinConnector(), MemoryEngineBook(), clock, SeededDice(), FleetConfig())
    await fleet.open()
    server = PeerServer([EngineHost(fleet, clock).methods()], keys, lambda node_id, key_hash: False)
    print(await server.start("127.0.0.1", 0), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.close(0)
    await fleet.close()


async def streams(engine: Engine, count: int, parallel: int, is_paced: bool) -> None:
    """`count` answers, `parallel` at once; each must arrive whole."""
    todo = iter(range(count))

    async def worker() -> None:
        for _ in todo:
            chunks = 0
            async for read in engine.generate(ask(CHUNKS, is_paced), MODEL):
                chunks += len(read)
            assert chunks == CHUNKS + 1, f"{chunks - 1} of {CHUNKS} chunks arrived"

    await asyncio.gather(*(worker() for _ in range(parallel)))


async def first_chunk_us(engine: Engine) -> float:
    """From the question to the first chunk."""
    start = time.perf_counter()
    async with aclosing(engine.generate(ask(1, is_paced=False), MODEL)) as answer:
        await anext(answer)
        elapsed = time.perf_counter() - start
        async for _ in answer:
            pass
    return elapsed * 1e6


def ask(tokens: int, is_paced: bool) -> ChatRequest:
    """A text of about 1 kB."""
    return ChatRequest(
        model=MODEL, prompt="x" * 900, options=Options(num_predict=tokens, seed=int(is_paced), temperature=0.0)
    )


async def cpu_us(engine: Engine, pid: int, count: int, parallel: int, is_paced: bool) -> float:
    """Of both processes, per chunk."""
    start_s = time.process_time()
    with CpuMeter(pid) as cpu:
        await streams(engine, count, parallel, is_paced)
    return (time.process_time() - start_s + cpu.seconds) / (count * CHUNKS) * 1e6


async def measure(engines: dict[str, Engine], pid: int, scale: int) -> list[Result]:
    """All paths; they take turns, and medians of ROUNDS count."""
    firsts: dict[str, list[float]] = {name: [] for name in engines}
    paced: dict[str, list[float]] = {name: [] for name in engines}
    burst: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        await streams(engine, 32, 32, is_paced=False)
    for _ in range(500 * scale):
        for name, engine in engines.items():
            firsts[name].append(await first_chunk_us(engine))
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            paced[name].append(await cpu_us(engine, pid, 64 * scale, 32, is_paced=True))
            burst[name].append(await cpu_us(engine, pid, 150 * scale, 16, is_paced=False))
    return [Result(name, median(firsts[name]), median(paced[name]), median(burst[name])) for name in engines]


def papers_of(authority: FileAuthority, node_id: str) -> NodeKeys:
    """A node's papers."""
    key, request = papers.new_key()
    return papers.bind(key, authority.sign(request, node_id, time.time_ns()), authority.certificate)


@contextmanager
def other_node(keys: NodeKeys) -> Iterator[tuple[int, int]]:
    """A child process that answers: (pid, port)."""
    command = [sys.executable, __file__, "--answer"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(msgspec.json.encode(keys) + b"\n")
        child.stdin.flush()
        yield child.pid, int(child.stdout.readline())
    finally:
        child.stdin.close()  # its lifeline
        child.wait(timeout=20)
        child.stdout.close()


async def compare(keys: NodeKeys, pid: int, port: int, scale: int) -> list[Result]:
    """The same engine here and there."""
    record = NodeRecord(
        node_id=THERE,
        name="there",
        addresses=(f"127.0.0.1:{port}",),
        sequence=2,
        joined_ns=0,
        key_hash="",
        version="0",
    )
    link = TlsPeerLink(keys)
    peer = PeerEngine(link, lambda: record, "local", EngineKind.LLAMACPP)
    try:
        return await measure({"here": FastEngine(), "on another node": peer}, pid, scale)
    finally:
        await link.close()


def run(scale: int) -> list[Result]:
    """Both paths."""
    with tempfile.TemporaryDirectory(prefix="ollamamax-bench-") as folder:
        authority = FileAuthority.create(Path(folder), "c" * 16, "bench", None, time.time_ns())
        with (
            other_node(papers_of(authority, THERE)) as (pid, port),
            asyncio.Runner(loop_factory=new_event_loop) as runner,
        ):
            return runner.run(compare(papers_of(authority, HERE), pid, port, scale))


def main() -> int:
    """Print the table; the exit code is 1 if the hop misses its goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=1, help="times the default number of requests (default 1)")
    parser.add_argument("--answer", action="store_true", help="be the node that answers (used by the benchmark itself)")
    options = parser.parse_args()
    if options.answer:
        keys = msgspec.json.decode(sys.stdin.readline(), type=NodeKeys)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(answer_peers(keys))
        return 0
    here, there = run(options.scale)
    print(f"machine: {machine()}\n")
    print("| engine | first token p50 us | CPU us/chunk, paced 10 ms | CPU us/chunk, burst |")
    print("|---|---|---|---|")
    for one in (here, there):
        print(f"| {one.name} | {one.first_us:.0f} | {one.cpu_paced_us:.1f} | {one.cpu_burst_us:.1f} |")
    first_ms = (there.first_us - here.first_us) / 1000
    paced_us, burst_us = there.cpu_paced_us - here.cpu_paced_us, there.cpu_burst_us - here.cpu_burst_us
    print(f"\nthe hop: {first_ms:.2f} ms to the first token, {paced_us:.1f} us per chunk paced, {burst_us:.1f} burst")
    met = first_ms <= 1.0 and max(paced_us, burst_us) <= 40
    print(f"goals (<= 1 ms to the first token, <= 40 us CPU per chunk for both ends): {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
