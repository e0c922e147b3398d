"""One engine of another node as the fleet sees it: what that node tells of it, and this node's own accounts."""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from ollamamax.core.errors import EngineTimeout, EngineUnavailable
from ollamamax.core.routing.hearsay import Others, others, sound, together
from ollamamax.core.types import EngineFacts, EngineKind, LoadedModel, NodeEngine
from ollamamax.ports import Engine
from ollamamax.services.members import LOCAL, EngineStatus, Lease, Member

FRESH_MS: Final = 100.0
"""Facts of an engine that this node asks for nothing are made anew so often, for their age."""


class PeerMember(Member):
    """Not probed: what is known comes with `tell` and `set_state`. doubt: called with the node's id after a failure
    that may mean that the node is not there.
    """

    def __init__(self, node_id: str, node: str, told: NodeEngine, engine: Engine, doubt: Callable[[str], None]) -> None:
        super().__init__(f"{node}/{told.name}", engine, None, node, node_id)
        self.name = told.name
        self.leases: set[Lease] = set()
        self.reachable = False
        self._doubt = doubt
        self._raw = NodeEngine(name=told.name, kind=told.kind, slots=0)
        self._told = self._raw
        self._others = Others()
        self._rows: Sequence[LoadedModel] = ()
        self._idle: EngineFacts | None = None
        self._idle_until_ms = 0.0

    @property
    def kind(self) -> EngineKind:
        """As told."""
        return self._told.kind

    @property
    def slots(self) -> int:
        """As told."""
        return self._told.slots

    @property
    def load_ms(self) -> float:
        """As told, else as seen from here."""
        return self._told.load_ms or self.rates.load_ms

    @property
    def has_slots_per_model(self) -> bool:
        """As told."""
        return self._told.busy is not None

    @property
    def is_pool(self) -> bool:
        """Whether it is the node's own, not one that is attached to it."""
        return self.name == LOCAL and self._told.kind is EngineKind.LLAMACPP

    def tell(
        self, told: NodeEngine, at_ms: float, rows: Sequence[LoadedModel] = (), free_memory_bytes: int = 0
    ) -> bool:
        """What its node says. Whether it may take requests that it did not take before.

        at_ms: when the news came.  rows, free_memory_bytes: of the whole node, for its own engine.
        """
        self.confirmed_ms = at_ms
        if self.is_pool:
            self._rows, self.free_memory_bytes = rows, max(free_memory_bytes, 0)
        self._idle = None
        are_models_new = told.models != self._raw.models
        before, slots = self._others, self._told.slots
        if told != self._raw:
            self._raw, self._told = told, sound(told)
        if are_models_new:
            self.set_models(self._told.models)
        self._others = others(self._told, self.in_flight, self.outstanding_tokens, self.busy)
        has_less_to_do = self._others.in_flight < before.in_flight or self._others.busy != before.busy
        return are_models_new or has_less_to_do or self._told.slots != slots

    def set_state(self, is_there: bool, out: str, error: str) -> bool:
        """Whether its node can be reached, and takes requests. Whether anything changed.

        error: why it can't be reached, for people.
        """
        reachable = is_there and self._told.reachable
        if not reachable and not error:
            error = f"node '{self.node}' can't reach it"
        before = self.reachable, self.out
        self.reachable, self.out, self.error = reachable, out, "" if reachable else error
        self._idle = None
        return (reachable, out) != before

    def lose(self) -> None:
        """Its node has gone: end what waits for it."""
        for lease in tuple(self.leases):
            lease.is_lost = True
            if lease.on_lost is not None:
                lease.on_lost()

    def doubt(self, error: Exception) -> None:
        """Ask whether the node is there."""
        if isinstance(error, EngineUnavailable | EngineTimeout):
            self._doubt(self.node_id)

    def take(self, key: str, tokens: int) -> None:
        """A slot is taken."""
        self._idle = None
        super().take(key, tokens)

    def facts(self, now_ms: float) -> EngineFacts:
        """What routing may know; frozen."""
        if self._idle is not None and now_ms < self._idle_until_ms and not self.in_flight:
            return self._idle
        told, theirs, rates = self._told, self._others, self.rates
        made = EngineFacts(
            self.engine_id,
            told.kind,
            self.models,
            told.slots,
            self.in_flight + theirs.in_flight,
            self.outstanding_tokens + theirs.outstanding_tokens,
            told.prefill_tps or rates.prefill_tps,
            told.decode_tps or rates.decode_tps,
            told.load_ms or rates.load_ms,
            self.reachable,
            now_ms - (self.confirmed_ms if self.confirmed_ms is not None else 0.0),
            together(self.busy, theirs.busy or {}) if told.busy is not None else None,
            self.node_id,
            self.out,
            self.free_memory_bytes,
        )
        if not self.in_flight:
            self._idle, self._idle_until_ms = made, now_ms + FRESH_MS
        return made

    def running(self) -> list[LoadedModel]:
        """Models in memory there."""
        return list(self._rows) if self.is_pool else super().running()

    def status(self, now_ms: float) -> EngineStatus:
        """For people."""
        facts = self.facts(now_ms)
        return replace(
            super().status(now_ms),
            in_flight=facts.in_flight,
            prefill_tps=round(facts.prefill_tps, 1),
            decode_tps=round(facts.decode_tps, 1),
        )

    def check_invariants(self) -> None:
        """As of any member; and each slot that is taken has its lease. Raises: AssertionError."""
        super().check_invariants()
        assert len(self.leases) == self.in_flight, "each slot that is taken has its lease"
        assert all(lease.member is self for lease in self.leases), "a lease is kept where it belongs"
