"""The agent: this node's own engines behind the port that every engine has.

It finds the model, checks that it can do what is asked, waits for a slot (loading, evicting and restarting are the
runner pool's work), asks the engine and passes the answer on.
"""

from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from msgspec.structs import replace

from ollamamax.core.errors import OllamaMaxError, Unsupported
from ollamamax.core.modelspec import names
from ollamamax.core.options import overlay
from ollamamax.core.placement import keeper
from ollamamax.core.residency.machine import ResidencyConfig
from ollamamax.core.residency.runner import Phase, Runner
from ollamamax.core.types import (
    FOREVER_MS,
    ChatRequest,
    Chunk,
    EmbedRequest,
    EmbedResult,
    EngineKind,
    EngineModel,
    GenerationStats,
    LoadedModel,
    ModelDetails,
    ModelRecord,
    Options,
    ResolvedModel,
)
from ollamamax.ports import ChunkStream, Clock, Dice, EngineLauncher, MachineProbe, Meter
from ollamamax.services.agent_answer import answered
from ollamamax.services.agent_launch import AUTOMATIC_SLOTS, AgentConfig, launch_plan, runner_key
from ollamamax.services.agent_render import (
    Dates,
    Renderer,
    check_capabilities,
    conversation,
    is_empty,
)
from ollamamax.services.runners import LaunchPlan, RunnerPool

__all__ = ["AgentConfig", "LocalAgent", "ModelLibrary"]

_NS_PER_MS: Final = 1_000_000


class ModelLibrary(Protocol):
    """What the agent needs of the model store."""

    async def resolve(self, model: str) -> ResolvedModel:
        """Raises: InvalidName, ModelNotFound, StoreError, GgufError."""
        ...

    async def records(self) -> Sequence[ModelRecord]:
        """All models of the store. Raises: StoreError."""
        ...

    async def show(self, model: str) -> dict[str, Any]:
        """The answer of /api/show. Raises: InvalidName, ModelNotFound, StoreError, GgufError."""
        ...


class LocalAgent:
    """An Engine over all engines of this node. `run()` must run as a task; `close()` ends it."""

    def __init__(
        self,
        library: ModelLibrary,
        launcher: EngineLauncher,
        machine: MachineProbe,
        clock: Clock,
        dice: Dice,
        meter: Meter,
        config: AgentConfig,
    ) -> None:
        self._library = library
        self._clock = clock
        self._dice = dice
        self._config = config
        self._pool = RunnerPool(launcher, machine, clock, meter, _residency(config), config.gpu_overhead_bytes)
        self._shown_as: dict[tuple[str, str], tuple[str, ModelDetails]] = {}
        """By weights and name. Kept for good: a few hundred bytes for each version of a model that was used."""
        self._needs: dict[str, tuple[int, ...]] = {}
        """By digest of the manifest."""

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the engines until `close` has ended; cancelling stops them at once."""
        await self._pool.run()

    def reconfigure(self, config: AgentConfig) -> None:
        """Other settings from the next request on. One that a loaded model does not fit has it loaded anew."""
        self._config = config
        self._needs.clear()
        self._pool.reconfigure(_residency(config), config.gpu_overhead_bytes)

    def tick(self) -> None:
        """Do what is due by the clock now; `run` does so by itself when real time passes."""
        self._pool.tick()

    async def close(self, grace_ms: float = 0.0) -> None:
        """Take no new work, wait at most so long for answers, stop all engines. Idempotent."""
        await self._pool.close(grace_ms)

    def check_invariants(self) -> None:
        """Raises: AssertionError."""
        self._pool.check_invariants()

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def kind(self) -> EngineKind:
        """LLAMACPP."""
        return EngineKind.LLAMACPP

    @property
    def slots(self) -> int:
        """Requests that one loaded model takes at once: as configured, else as those in memory do, else four."""
        found = [runner.spec.parallel for runner in self._pool.runners if not runner.spec.embedding]
        return self._config.num_parallel or max(found, default=AUTOMATIC_SLOTS)

    @property
    def in_flight(self) -> int:
        """Requests that hold a slot."""
        return sum(len(runner.serving) for runner in self._pool.runners)

    @property
    def last_load_ms(self) -> float:
        """How long the last load took, 0 before the first."""
        return self._pool.last_load_ms

    def loaded(self) -> list[LoadedModel]:
        """Models in memory, oldest first, under the names they were loaded by."""
        return [self._row(runner) for runner in self._pool.runners if runner.phase is Phase.READY]

    async def models(self) -> tuple[EngineModel, ...]:
        """All models of the store. Raises: StoreError."""
        running = {row.name: row for row in self.loaded()}
        return tuple(
            [
                EngineModel(
                    key=names.key(record.name),
                    served_as=record.name,
                    loaded=record.name in running,
                    record=record,
                    running=running.get(record.name),
                    slots=1 if "embedding" in record.capabilities else 0,
                    needs_bytes=await self._needs_of(record),
                )
                for record in await self._library.records()
            ]
        )

    async def _needs_of(self, record: ModelRecord) -> tuple[int, ...]:
        """Memory of one replica for each number of slots that would be tried, most first; empty if it can't be told."""
        needs = self._needs.get(record.digest)
        if needs is None:
            try:
                model = await self._library.resolve(record.name)
                plan = launch_plan(model, model.options, True, self._config)
            except OllamaMaxError:  # who uses the model is told
                return ()
            needs = self._needs[record.digest] = tuple(sizing.need_bytes for sizing in plan.sizings)
        return needs

    async def describe(self, served_as: str) -> dict[str, Any] | None:
        """The store's answer of /api/show. Raises: ModelNotFound, StoreError, GgufError."""
        return await self._library.show(served_as)

    def _row(self, runner: Runner) -> LoadedModel:
        spec = runner.spec
        digest, details = self._shown_as[runner.model_key, spec.name]
        is_on_gpu = self._pool.gpus > 0 and spec.gpu_layers != 0
        return LoadedModel(
            name=spec.name,
            digest=digest,
            size_bytes=runner.need_bytes,
            vram_bytes=runner.need_bytes if is_on_gpu else 0,
            context_length=spec.ctx_tokens,
            expires_ns=self._expires_ns(runner),
            details=details,
        )

    def _expires_ns(self, runner: Runner) -> int:
        """While it is busy, as if its last request ended now; the past once it is to leave."""
        now_ms, wall_ns = self._clock.now_ms(), self._clock.wall_ns()
        if runner.condemned:
            return wall_ns - 1
        if runner.keep_alive_ms == FOREVER_MS:
            return FOREVER_MS
        at_ms = runner.expires_at_ms if runner.expires_at_ms is not None else now_ms + runner.keep_alive_ms
        return wall_ns + int((at_ms - now_ms) * _NS_PER_MS)

    # -- replicas that are kept --------------------------------------------------------------------------------------

    async def kept(self) -> tuple[keeper.Instance, ...]:
        """Those there are; of a model that is another one by now, they are let go."""
        for key in {runner.kept_for for runner in self._pool.runners if runner.kept_for}:
            try:
                weights = runner_key(await self._library.resolve(key))
            except OllamaMaxError:
                weights = ""
            for runner in self._pool.runners:
                if runner.kept_for == key and runner.model_key != weights:
                    self._pool.let_go(runner.key)
        return tuple(
            keeper.Instance(runner.key, runner.kept_for, _phase(runner), busy=not runner.is_idle)
            for runner in self._pool.runners
            if runner.kept_for
        )

    async def keep(self, model_key: str) -> None:
        """One more replica of the model stays in memory until it is let go; returns once it is ready.

        Raises: ModelNotFound, NoMemory, LoadFailed, LoadTimeout, GgufError, StoreError, ShuttingDown.
        """
        model = await self._library.resolve(model_key)
        async with self._pool.slot(self._plan(model, model.options, shift=True), None, keep_for=model_key) as slot:
            slot.is_completed = True

    def let_go(self, instance_id: str) -> None:
        """From now on the replica leaves by its keep-alive."""
        self._pool.let_go(instance_id)

    async def vacate(self, model: str, limit_ms: float) -> None:
        """Have what a name was loaded under leave memory, once its answers end; wait for it so long at most."""
        key = names.key(model)
        runners = [one for one in self._pool.runners if names.key(one.spec.name) == key or one.kept_for == key]
        for runner in runners:
            if runner.kept_for == key:
                self._pool.let_go(runner.key)
        for weights in {runner.model_key for runner in runners}:
            self._pool.unload(weights)
        await self._pool.gone({runner.key for runner in runners if not runner.kept_for}, limit_ms)

    def stop_serving(self) -> None:
        """All answers end now, and all models leave memory."""
        self._pool.stop_serving()

    # -- work --------------------------------------------------------------------------------------------------------

    async def generate(self, request: ChatRequest, served_as: str) -> ChunkStream:
        """Answer. An empty request loads the model, or with keep_alive 0 unloads it: one chunk.

        Raises: ModelNotFound, Unsupported, TemplateError, NoMemory, LoadFailed, LoadTimeout, InputTooLong, EngineError.
        """
        began_ms = self._clock.now_ms()
        model = await self._library.resolve(served_as)
        if is_empty(request) and request.keep_alive_ms == 0:
            self._pool.unload(runner_key(model))
            yield [Chunk(done_reason="unload", stats=GenerationStats())]
            return
        check_capabilities(request, model)
        options = overlay(model.options, request.options)
        renderer = None
        if not is_empty(request):
            renderer = Renderer(request, model, options, self._dates(), self._call_id)
        async with self._pool.slot(self._plan(model, options, request.shift), request.keep_alive_ms) as slot:
            load_ms = self._clock.now_ms() - began_ms
            if renderer is None:
                slot.is_completed = True
                yield [Chunk(done_reason="load", stats=GenerationStats(load_ms=load_ms))]
                return
            messages = conversation(request, model)
            async with aclosing(answered(slot.engine, renderer, messages, request.truncate, served_as)) as answer:
                async for chunks in answer:
                    last = chunks[-1] if chunks else None
                    if last is not None and last.done_reason:
                        slot.is_completed = True
                        stats = replace(last.stats or GenerationStats(), load_ms=load_ms)
                        chunks = [*chunks[:-1], replace(last, stats=stats)]
                    yield chunks

    async def embed(self, request: EmbedRequest, served_as: str) -> EmbedResult:
        """Vectors; without inputs the model is only loaded.

        Raises: ModelNotFound, Unsupported, NoMemory, LoadFailed, LoadTimeout, InputTooLong, EngineError.
        """
        began_ms = self._clock.now_ms()
        model = await self._library.resolve(served_as)
        if model.facts.pooling_type is None:
            raise Unsupported("this model does not support embeddings")
        options = overlay(model.options, request.options)
        async with self._pool.slot(self._plan(model, options, shift=True), request.keep_alive_ms) as slot:
            load_ms = self._clock.now_ms() - began_ms
            result = await slot.engine.embed(replace(request, options=options), served_as)
            slot.is_completed = True
            return replace(result, load_ms=load_ms)

    def _plan(self, model: ResolvedModel, options: Options, shift: bool) -> LaunchPlan:
        plan = launch_plan(model, options, shift, self._config)
        self._shown_as[plan.spec.key, plan.spec.name] = (model.digest, model.details)
        return plan

    def _dates(self) -> Dates:
        today = datetime.fromtimestamp(self._clock.wall_ns() / 1e9, UTC).astimezone()
        return Dates(today.date().isoformat(), (today.date() - timedelta(days=1)).isoformat())

    def _call_id(self) -> str:
        return f"call_{self._dice.token_hex(4)}"


def _phase(runner: Runner) -> keeper.Phase:
    if runner.condemned or runner.phase is Phase.STOPPING:
        return keeper.Phase.UNLOADING
    return keeper.Phase.READY if runner.phase is Phase.READY else keeper.Phase.LOADING


def _residency(config: AgentConfig) -> ResidencyConfig:
    return ResidencyConfig(
        keep_alive_ms=config.keep_alive_ms,
        max_loaded=config.max_loaded_models,
        load_timeout_ms=config.load_timeout_ms,
    )
