"""What this node tells the others of itself: its engines and their load, its memory, and who it is."""

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from ollamamax.core.types import EngineModel, LoadedModel, NodeEngine, NodeFacts
from ollamamax.ports import MachineProbe
from ollamamax.services.fleet import Fleet
from ollamamax.services.members import LOCAL, Member

LOOK_S: Final = 1.0
"""Between two looks for what changes without a request: models that leave memory, tokens that are produced."""
MEASURE_S: Final = 5.0
"""Between two measurements of memory; a model that comes or goes has it done at once."""
GPU_FACTOR: Final = 12
"""Where there are GPUs it is done so many times less often: asking them takes a process each time."""
STEP_PARTS: Final = 32
"""Free memory is told anew once it has changed by such a part of the whole, so that idle nodes keep silent."""


class NodeFactsSource:
    """Call it for the facts of this moment. `measure()` first, then `run()` in a task of its own.

    base: who this node is and what it does apart from its engines: all but free_memory_bytes, total_memory_bytes,
    gpu_count, engines and loaded.
    """

    def __init__(self, fleet: Fleet, machine: MachineProbe, base: Callable[[], NodeFacts]) -> None:
        self._fleet = fleet
        self._machine = machine
        self._base = base
        self._free_bytes = 0
        self._total_bytes = 0
        self._gpus = 0
        self._loaded: frozenset[str] = frozenset()
        self._models: dict[str, tuple[dict[str, EngineModel], tuple[EngineModel, ...]]] = {}
        """By engine: its models as it offers them, and as they are told."""

    def __call__(self) -> NodeFacts:
        """What there is to tell now."""
        members = self._fleet.own_engines()
        self._models = {member.engine_id: self._told_models(member) for member in members}
        return replace(
            self._base(),
            free_memory_bytes=self._free_bytes,
            total_memory_bytes=self._total_bytes,
            gpu_count=self._gpus,
            engines=tuple([self._engine(member) for member in members]),
            loaded=tuple(self._rows()),
        )

    async def run(self, look_s: float = LOOK_S, measure_s: float = MEASURE_S) -> None:
        """Watch memory and what changes without a request, until cancelled. Shorter times are for tests."""
        since_s = 0.0
        while True:
            await asyncio.sleep(look_s)
            since_s += look_s
            has_other_models = self.look()
            if has_other_models or since_s >= measure_s * (GPU_FACTOR if self._gpus else 1):
                since_s = 0.0
                await self.measure()

    async def measure(self) -> None:
        """Ask the machine for its memory, in a thread."""
        free_bytes, total_bytes, gpus = await asyncio.to_thread(self._ask)
        self._fleet.tell_free_memory(free_bytes)
        has_moved = abs(free_bytes - self._free_bytes) * STEP_PARTS >= total_bytes
        if has_moved or (total_bytes, gpus) != (self._total_bytes, self._gpus):
            self._free_bytes, self._total_bytes, self._gpus = free_bytes, total_bytes, gpus
            self._fleet.own_changed()

    def look(self) -> bool:
        """Tell the fleet's watchers if models came or went, or answers are under way. Whether models came or went."""
        loaded = frozenset(row.name for row in self._rows())
        has_changed = loaded != self._loaded
        self._loaded = loaded
        if has_changed or any(member.in_flight for member in self._fleet.own_engines()):
            self._fleet.own_changed()
        return has_changed

    def _ask(self) -> tuple[int, int, int]:
        machine = self._machine
        return machine.free_memory_bytes(), machine.total_memory_bytes(), machine.gpu_count()

    def _rows(self) -> list[LoadedModel]:
        return self._fleet.own_engines()[0].running()

    def _engine(self, member: Member) -> NodeEngine:
        return NodeEngine(
            name=member.engine_id,
            kind=member.kind,
            slots=member.slots,
            models=self._models[member.engine_id][1],
            in_flight=member.in_flight,
            outstanding_tokens=float(member.outstanding_tokens),
            prefill_tps=round(member.rates.prefill_tps, 1),
            decode_tps=round(member.rates.decode_tps, 1),
            load_ms=round(member.load_ms, 1),
            reachable=member.reachable,
            busy=member.busy.copy() if member.has_slots_per_model else None,
        )

    def _told_models(self, member: Member) -> tuple[dict[str, EngineModel], tuple[EngineModel, ...]]:
        """The same as long as nothing changes. What is in this node's own memory is told by `loaded`."""
        offered = member.offers()
        kept = self._models.get(member.engine_id)
        if kept is not None and kept[0] is offered:
            return kept
        models = tuple(offered.values())
        if member.engine_id == LOCAL:
            models = tuple([replace(model, running=None) if model.running else model for model in models])
        return offered, models
