"""Twins of the engine ports: scripted, deterministic, with knobs to hold, break and watch them.

A gate is an `asyncio.Event` that starts open; `clear()` it to hold the twin there, `set()` it to let it go on. What a
twin has seen stands in plain attributes; `await twin.until(lambda: twin.active == 2)` waits for a change of them
(bound it with `asyncio.timeout`).
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from ollamamax.core.errors import EngineCrashed, EngineUnavailable
from ollamamax.core.modelspec import names
from ollamamax.core.types import (
    AttachedEngine,
    ChatRequest,
    Chunk,
    EmbedRequest,
    EmbedResult,
    EngineKind,
    EngineModel,
    GenerationStats,
    LaunchSpec,
    Options,
)
from ollamamax.ports import ChunkStream

CRASHED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
DEFAULT_WORDS = ("Hello", " there", ",", " how", " are", " you", "?")


class Watched:
    """Something whose changes can be waited for."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Event] = set()

    def note(self) -> None:
        """Wake all who wait: something changed."""
        for waiter in self._waiters:
            waiter.set()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return once `predicate()` holds. Bound it with `asyncio.timeout`."""
        while not predicate():
            waiter = asyncio.Event()
            self._waiters.add(waiter)
            try:
                await waiter.wait()
            finally:
                self._waiters.discard(waiter)


def token_id(piece: str) -> int:
    """The id that a twin gives to a piece of text: the same for the same piece."""
    return 3 + sum((place + 1) * value for place, value in enumerate(piece.encode())) % 31_999


def scripted(words: Sequence[str], options: Options, prompt_tokens: int) -> list[list[Chunk]]:
    """One read per word and a final one, cut at `num_predict` and at the first stop string as an engine would."""
    limit = options.num_predict
    reason = "stop"
    if limit is not None and 0 <= limit < len(words):
        words, reason = words[:limit], "length"
    text = "".join(words)
    cuts = [text.index(stop) for stop in options.stop or () if stop and stop in text]
    if cuts:
        reason = "stop"
    left = min(cuts, default=len(text))
    reads: list[list[Chunk]] = []
    for word in words:
        if left <= 0:
            break
        reads.append([Chunk(text=word[:left], token_ids=(token_id(word),))])
        left -= len(word)
    stats = GenerationStats(
        prompt_tokens=prompt_tokens, prompt_ms=2.0 * prompt_tokens, eval_tokens=len(reads), eval_ms=10.0 * len(reads)
    )
    return [*reads, [Chunk(done_reason=reason, stats=stats)]]


class TwinEngine(Watched):
    """A RunningEngine (and so an Engine) without a model.

    Knobs, all free to change at any time:
    offered: what models() tells.  words: the answer, a token each.  script: whole reads to emit instead of `words`.
    first_gate: held before the first chunk.  next_gate: held before each read once `hold_after` reads went out.
    models_gate, embed_gate: held before those answer.
    fail_first, fail_mid, models_error, embed_error: raised there (fail_mid once `fail_after` reads went out).
    dimensions: length of its vectors.  shows: describe()'s answers by name.

    Records: requests, embeds (with the name asked for), models_calls, active and max_active (streams and embeds now
    and at most), finished (final chunks handed out), cancelled (streams that their reader left early), is_closed.
    """

    def __init__(
        self,
        offered: Iterable[EngineModel] = (),
        words: Sequence[str] = DEFAULT_WORDS,
        kind: EngineKind = EngineKind.LLAMACPP,
        pid: int = 4242,
    ) -> None:
        super().__init__()
        self._kind = kind
        self._pid = pid
        self._ended = asyncio.Event()
        self._reason = ""
        self.offered = tuple(offered)
        self.words = tuple(words)
        self.script: list[list[Chunk]] | None = None
        self.first_gate, self.next_gate, self.models_gate, self.embed_gate = (asyncio.Event() for _ in range(4))
        for gate in (self.first_gate, self.next_gate, self.models_gate, self.embed_gate):
            gate.set()
        self.hold_after = 1
        self.fail_after = 1
        self.fail_first: Exception | None = None
        self.fail_mid: Exception | None = None
        self.models_error: Exception | None = None
        self.embed_error: Exception | None = None
        self.dimensions = 8
        self.shows: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[ChatRequest, str]] = []
        self.embeds: list[tuple[EmbedRequest, str]] = []
        self.models_calls = self.active = self.max_active = self.finished = self.cancelled = 0
        self.is_closed = False

    @property
    def kind(self) -> EngineKind:
        """What it stands for."""
        return self._kind

    @property
    def pid(self) -> int:
        """The number given to it; no process has it."""
        return self._pid

    async def models(self) -> tuple[EngineModel, ...]:
        """`offered`. Raises: models_error; EngineUnavailable once it is closed or crashed."""
        self.models_calls += 1
        self.note()
        await self._pass(self.models_gate, is_probe=True)
        if self.models_error is not None:
            raise self.models_error
        return self.offered

    async def generate(self, request: ChatRequest, served_as: str) -> ChunkStream:
        """The script, or the words. An empty request is a load (an unload with keep_alive 0): one chunk."""
        self.requests.append((request, served_as))
        with self._counted():
            await self._pass(self.first_gate)
            if self.fail_first is not None:
                raise self.fail_first
            for sent, read in enumerate(self._reads(request)):
                if sent:
                    await self._pass(self.next_gate if sent >= self.hold_after else None)
                if self.fail_mid is not None and sent >= self.fail_after:
                    raise self.fail_mid
                is_last = any(chunk.done_reason for chunk in read)
                if is_last:
                    self.finished += 1
                try:
                    yield read
                except GeneratorExit:
                    self.cancelled += not is_last
                    raise
                self.note()
                if is_last:
                    return
            raise EngineUnavailable("the engine closed the stream before its end")

    async def embed(self, request: EmbedRequest, served_as: str) -> EmbedResult:
        """Vectors made from the bytes of each text: equal texts, equal vectors."""
        self.embeds.append((request, served_as))
        with self._counted():
            await self._pass(self.embed_gate)
            if self.embed_error is not None:
                raise self.embed_error
            size = min(request.dimensions or self.dimensions, self.dimensions)
            vectors = tuple(_vector(text, size) for text in request.inputs)
            return EmbedResult(vectors=vectors, prompt_tokens=sum(len(text.split()) for text in request.inputs))

    async def describe(self, served_as: str) -> dict[str, Any] | None:
        """From `shows`."""
        return self.shows.get(served_as)

    async def close(self) -> None:
        """End; streams under way fail with EngineUnavailable."""
        self.is_closed = True
        self._end("stopped")

    async def exited(self) -> str:
        """Returns after close() or crash()."""
        await self._ended.wait()
        return self._reason

    def crash(self, reason: str = "killed by signal 9") -> None:
        """As if its process had died: streams fail with EngineCrashed, exited() returns."""
        self._end(reason)

    @property
    def is_running(self) -> bool:
        """Neither closed nor crashed."""
        return not self._ended.is_set()

    def _end(self, reason: str) -> None:
        if not self._ended.is_set():
            self._reason = reason
            self._ended.set()
        self.note()

    def _reads(self, request: ChatRequest) -> list[list[Chunk]]:
        if request.prompt is None and not request.messages:
            reason = "unload" if request.keep_alive_ms == 0 else "load"
            return [[Chunk(done_reason=reason, stats=GenerationStats())]]
        prompt = request.prompt if request.prompt is not None else " ".join(m.content for m in request.messages)
        prompt_ids = (*request.context, *map(token_id, prompt.split()))
        if request.count_only:
            return [[Chunk(done_reason="load", stats=GenerationStats(prompt_tokens=len(prompt_ids)))]]
        if request.render_only:
            return [[Chunk(text=prompt, done_reason="load", stats=GenerationStats())]]
        if self.script is not None:
            return self.script
        reads = scripted(self.words, request.options, len(prompt_ids))
        if request.want_context:
            answer = [number for read in reads for chunk in read for number in chunk.token_ids]
            reads[-1] = [replace(reads[-1][0], context=(*prompt_ids, *answer))]
        return reads

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.active += 1
        self.max_active = max(self.max_active, self.active)
        self.note()
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.active -= 1
            self.note()

    async def _pass(self, gate: asyncio.Event | None, is_probe: bool = False) -> None:
        """Wait for the gate or for the end; yields to the loop in any case. Only answers know a crash as one."""
        await asyncio.sleep(0)
        if gate is not None and not gate.is_set() and not self._ended.is_set():
            waits = [asyncio.ensure_future(gate.wait()), asyncio.ensure_future(self._ended.wait())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
        if self._ended.is_set():
            raise EngineUnavailable("the engine has ended") if self.is_closed or is_probe else crashed()


def crashed() -> EngineCrashed:
    """What the streams of an engine that died raise."""
    return EngineCrashed(CRASHED)


def _vector(text: str, size: int) -> tuple[float, ...]:
    raw = [1.0 + (token_id(f"{text}#{place}") % 97) for place in range(size)]
    length = math.sqrt(sum(value * value for value in raw))
    return tuple(value / length for value in raw)


class TwinLauncher(Watched):
    """An EngineLauncher that gives TwinEngines.

    prepare: called with each new twin and its spec before it is handed out.  gate: held during launch.
    failures: one is taken per launch, in order; None = that launch succeeds; empty = all do.
    Records: specs of all launches, engines made, launching now, cancelled launches.
    """

    def __init__(self, prepare: Callable[[TwinEngine, LaunchSpec], None] | None = None) -> None:
        super().__init__()
        self._prepare = prepare
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception | None] = []
        self.specs: list[LaunchSpec] = []
        self.engines: list[TwinEngine] = []
        self.launching = self.cancelled = 0

    @property
    def live(self) -> list[TwinEngine]:
        """Engines that neither crashed nor were closed."""
        return [engine for engine in self.engines if engine.is_running]

    async def launch(self, spec: LaunchSpec) -> TwinEngine:
        """A twin that offers the spec's model. Raises: what stands next in `failures`."""
        self.specs.append(spec)
        failure = self.failures.pop(0) if self.failures else None
        self.launching += 1
        self.note()
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.launching -= 1
            self.note()
        if failure is not None:
            raise failure
        model = EngineModel(key=names.key(spec.name), served_as=spec.name, loaded=True)
        engine = TwinEngine(offered=[model], pid=1_000_000 + len(self.engines))
        if self._prepare is not None:
            self._prepare(engine, spec)
        self.engines.append(engine)
        self.note()
        return engine


class TwinConnector:
    """An EngineConnector. Put twins into `engines` by name beforehand, or find there what it made.

    refusal: raised by connect().  connected: what it was given, in order.
    """

    def __init__(self, engines: dict[str, TwinEngine] | None = None) -> None:
        self.engines = dict(engines or {})
        self.connected: list[AttachedEngine] = []
        self.refusal: Exception | None = None

    def connect(self, engine: AttachedEngine) -> TwinEngine:
        """The twin of that name; a closed one is replaced. Raises: refusal."""
        if self.refusal is not None:
            raise self.refusal
        self.connected.append(engine)
        twin = self.engines.get(engine.name)
        if twin is None or twin.is_closed:
            twin = self.engines[engine.name] = TwinEngine(kind=engine.kind)
        return twin

    async def aclose(self) -> None:
        """Close all twins."""
        for twin in self.engines.values():
            await twin.close()


class MemoryEngineBook:
    """An EngineBook that forgets with the process. load_error, save_error: raised there. saves: how often saved."""

    def __init__(self, engines: tuple[AttachedEngine, ...] = ()) -> None:
        self.engines = engines
        self.saves = 0
        self.load_error: Exception | None = None
        self.save_error: Exception | None = None

    async def load(self) -> tuple[AttachedEngine, ...]:
        """What was saved last. Raises: load_error."""
        if self.load_error is not None:
            raise self.load_error
        return self.engines

    async def save(self, engines: tuple[AttachedEngine, ...]) -> None:
        """Replace all. Raises: save_error, with nothing changed."""
        if self.save_error is not None:
            raise self.save_error
        self.engines = engines
        self.saves += 1


class FakeMachine:
    """A MachineProbe that has what its attributes say."""

    def __init__(self, free_bytes: int = 8 << 30, total_bytes: int = 16 << 30, gpus: int = 0) -> None:
        self.free_bytes = free_bytes
        self.total_bytes = total_bytes
        self.gpus = gpus

    def free_memory_bytes(self) -> int:
        """free_bytes."""
        return self.free_bytes

    def total_memory_bytes(self) -> int:
        """total_bytes."""
        return self.total_bytes

    def gpu_count(self) -> int:
        """gpus."""
        return self.gpus
