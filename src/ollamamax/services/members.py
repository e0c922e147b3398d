"""One engine as the fleet sees it: its models, the slots taken there, its rates and breakers."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from ollamamax.core.modelspec import names
from ollamamax.core.resilience.breaker import Breaker
from ollamamax.core.routing.predict import Rates
from ollamamax.core.types import (
    AttachedEngine,
    EngineFacts,
    EngineKind,
    EngineModel,
    LoadedModel,
)
from ollamamax.ports import Engine

LOCAL: Final = "local"
"""The id of this node's own engines, and how each node names its own among those it tells of."""


class LocalEngine(Engine, Protocol):
    """What the fleet needs of the service that owns this node's engines."""

    @property
    def slots(self) -> int:
        """Requests that one loaded model takes at once, where its EngineModel does not say."""
        ...

    @property
    def last_load_ms(self) -> float:
        """How long the last load took, 0 before the first."""
        ...

    def loaded(self) -> Sequence[LoadedModel]:
        """Models in memory now."""
        ...


class EngineStatus(Struct, frozen=True, kw_only=True):
    """One engine for people.

    error: of the last probe, "" if it answered.  age_ms: since it last answered one, -1 = never.  models: keys.
    left_out: keys of models that its breakers hold back.  node: the name of the node that has it, "" where nodes have
    none.  out: why it takes no new requests at all, "" if it does.
    """

    name: str
    node: str
    kind: str
    url: str
    slots: int
    in_flight: int
    reachable: bool
    error: str
    age_ms: float
    models: tuple[str, ...]
    left_out: tuple[str, ...]
    prefill_tps: float
    decode_tps: float
    load_ms: float
    out: str = ""


class Member:
    """An engine of the fleet and the accounts kept of it. Owned by the Fleet; others read.

    confirmed_ms: when it last told its models; None before the first time.  asked_ms: when the last probe ended.
    reads: read batches of its answers so far, a sign of life.  is_gone: detached; closed once the last lease ends.
    node_id: of the node that has it, "" = this one.  node: that node's name.  out: why it takes no new requests.
    """

    def __init__(
        self, engine_id: str, engine: Engine, attached: AttachedEngine | None, node: str = "", node_id: str = ""
    ) -> None:
        self.engine_id = engine_id
        self.engine = engine
        self.attached = attached
        self.node = node
        self.node_id = node_id
        self.out = ""
        self.free_memory_bytes = 0
        """For more models; 0 = not known, or none of its own."""
        self.leases: set[Lease] | None = None
        """Those that are open, where somebody may have to end them all."""
        self.models: dict[str, EngineModel] = {}
        self.in_flight = 0
        self.busy: dict[str, int] = {}
        self.outstanding_tokens = 0
        self.rates = Rates()
        self.breakers: dict[str, Breaker] = {}
        self.reachable = True
        self.error = ""
        self.confirmed_ms: float | None = None
        self.asked_ms = float("-inf")
        self.failed_probes = 0
        self.reads = 0
        self.is_gone = False
        self.kick = asyncio.Event()
        """Set to probe it soon instead of when its time comes."""

    @property
    def slots(self) -> int:
        """Requests that it is given at once."""
        return self.attached.slots if self.attached is not None else 0

    @property
    def load_ms(self) -> float:
        """Measured time to load a model, 0 = not yet measured."""
        return self.rates.load_ms

    @property
    def kind(self) -> EngineKind:
        """What stands behind it."""
        return self.engine.kind

    @property
    def has_slots_per_model(self) -> bool:
        """Whether each model has slots of its own."""
        return False

    @property
    def is_pool(self) -> bool:
        """Whether it is a node's own engines over its own store: may load anew, and can fetch models."""
        return False

    def doubt(self, error: Exception) -> None:
        """A request failed in a way that may mean more than that: look soon."""
        self.kick.set()

    def offers(self) -> dict[str, EngineModel]:
        """Its models by key, as far as they are known now. Not to be changed."""
        return self.models

    def facts(self, now_ms: float) -> EngineFacts:
        """What routing may know; frozen."""
        rates = self.rates
        return EngineFacts(
            self.engine_id,
            self.kind,
            self.offers(),
            self.slots,
            self.in_flight,
            self.outstanding_tokens,
            rates.prefill_tps,
            rates.decode_tps,
            self.load_ms,
            self.reachable,
            now_ms - (self.confirmed_ms if self.confirmed_ms is not None else 0.0),
            self.busy.copy() if self.has_slots_per_model else None,
            self.node_id,
            self.out,
            self.free_memory_bytes,
        )

    def set_models(self, offered: Sequence[EngineModel]) -> None:
        """Replace the models; of two with the same key the first counts. Breakers of lost ones are forgotten."""
        models: dict[str, EngineModel] = {}
        for model in offered:
            models.setdefault(model.key, model)
        self.models = models
        self.breakers = {key: breaker for key, breaker in self.breakers.items() if key in models}

    def mark_loaded(self, key: str) -> None:
        """It has answered with the model, so it is in memory, whatever the last probe said."""
        model = self.models.get(key)
        if model is not None and not model.loaded:
            self.models = {**self.models, key: replace(model, loaded=True)}

    def take(self, key: str, tokens: int) -> None:
        """A slot is taken."""
        self.in_flight += 1
        self.busy[key] = self.busy.get(key, 0) + 1
        self.outstanding_tokens += tokens

    def give_back(self, key: str, tokens: int) -> None:
        """A slot is free again. tokens: those predicted that never came."""
        self.in_flight -= 1
        self.outstanding_tokens -= tokens
        left = self.busy[key] - 1
        if left:
            self.busy[key] = left
        else:
            del self.busy[key]

    def running(self) -> list[LoadedModel]:
        """Its models in memory, where it tells."""
        return [model.running for model in self.models.values() if model.running is not None]

    def status(self, now_ms: float) -> EngineStatus:
        """For people."""
        held_back = (key for key, breaker in self.breakers.items() if not breaker.allows(now_ms))
        return EngineStatus(
            name=self.engine_id,
            node=self.node,
            kind=self.kind.value,
            url=self.attached.url if self.attached is not None else "",
            slots=self.slots,
            in_flight=self.in_flight,
            reachable=self.reachable,
            error=self.error,
            age_ms=round(now_ms - self.confirmed_ms) if self.confirmed_ms is not None else -1,
            models=tuple(self.models),
            left_out=tuple(held_back),
            prefill_tps=round(self.rates.prefill_tps, 1),
            decode_tps=round(self.rates.decode_tps, 1),
            load_ms=round(self.load_ms, 1),
            out=self.out,
        )

    def check_invariants(self) -> None:
        """The accounts add up. Raises: AssertionError."""
        assert self.in_flight == sum(self.busy.values()), "each slot that is taken is taken for a model"
        assert all(count > 0 for count in self.busy.values()), "no empty accounts are kept"
        assert self.outstanding_tokens >= 0, "tokens are given back once"
        assert self.in_flight or not self.outstanding_tokens, "who is idle owes nothing"
        for breaker in self.breakers.values():
            breaker.check_invariants()


class LocalMember(Member):
    """This node's own engines: slots per model, and a list of loaded ones that is always current."""

    def __init__(self, engine: LocalEngine, node: str = "") -> None:
        super().__init__(LOCAL, engine, None, node)
        self._local = engine
        self._loaded_names: tuple[str, ...] = ()

    @property
    def slots(self) -> int:
        """Of one model."""
        return self._local.slots

    @property
    def load_ms(self) -> float:
        """Of the last load here."""
        return self._local.last_load_ms

    @property
    def has_slots_per_model(self) -> bool:
        """Each model is a process of its own."""
        return True

    @property
    def is_pool(self) -> bool:
        """Yes."""
        return True

    def offers(self) -> dict[str, EngineModel]:
        """With those marked that are loaded at this moment."""
        loaded = self._local.loaded()
        if tuple([model.name for model in loaded]) != self._loaded_names:
            self._mark(loaded)
        return self.models

    def set_models(self, offered: Sequence[EngineModel]) -> None:
        """Replace the models, with the loaded ones of this moment marked."""
        super().set_models(offered)
        self._mark(self._local.loaded())

    def running(self) -> list[LoadedModel]:
        """As of now."""
        return list(self._local.loaded())

    def _mark(self, loaded: Sequence[LoadedModel]) -> None:
        """Names that share weights share a process, which bears the name it was started under."""
        self._loaded_names = tuple([model.name for model in loaded])
        keys = [names.key(model.name) for model in loaded]

        def marked(model: EngineModel) -> EngineModel:
            digest = model.record.digest if model.record is not None else ""
            count = sum(key == model.key or it.digest == digest for key, it in zip(keys, loaded, strict=True))
            is_embedder = model.record is not None and "embedding" in model.record.capabilities
            # Each replica has slots of its own.
            slots = 1 if is_embedder else self.slots if count > 1 else 0
            told = replace(model, loaded=count > 0, slots=slots * max(count, 1))
            return model if told == model else told

        self.models = {key: marked(model) for key, model in self.models.items()}


class Lease:
    """A slot taken at an engine for one attempt; ended exactly once, through the Fleet.

    must_fetch: the node does not have the model, and has to get it first.  is_lost: its node has gone.
    on_lost: called when that happens.
    """

    __slots__ = (
        "began_ms",
        "is_lost",
        "is_open",
        "key",
        "left_tokens",
        "member",
        "must_fetch",
        "on_lost",
        "served_as",
        "ttft_ms",
        "was_loaded",
    )

    def __init__(
        self,
        member: Member,
        key: str,
        served_as: str,
        tokens: int,
        was_loaded: bool,
        ttft_ms: float,
        began_ms: float,
        must_fetch: bool = False,
    ) -> None:
        self.member = member
        self.key = key
        self.served_as = served_as
        self.left_tokens = tokens
        self.was_loaded = was_loaded
        self.ttft_ms = ttft_ms
        """Predicted."""
        self.began_ms = began_ms
        self.must_fetch = must_fetch
        self.is_open = True
        self.is_lost = False
        self.on_lost: Callable[[], None] | None = None
        member.take(key, tokens)
        if member.leases is not None:
            member.leases.add(self)

    @property
    def engine_id(self) -> str:
        """Whose slot it is."""
        return self.member.engine_id

    def progress(self, tokens: int) -> None:
        """One more read came, with about so many tokens."""
        member = self.member
        member.reads += 1
        if tokens > self.left_tokens:
            tokens = self.left_tokens
        self.left_tokens -= tokens
        member.outstanding_tokens -= tokens

    def close(self) -> None:
        """Give the slot back."""
        assert self.is_open, "a lease ends once"
        self.is_open = False
        self.member.give_back(self.key, self.left_tokens)
        if self.member.leases is not None:
            self.member.leases.remove(self)
