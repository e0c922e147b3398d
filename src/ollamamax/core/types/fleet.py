"""Engines and what is known of them."""

from enum import Enum

from msgspec import Struct

from ollamamax.core.types.models import LoadedModel, ModelRecord


class EngineKind(Enum):
    """What stands behind an engine."""

    LLAMACPP = "llamacpp"
    OLLAMA = "ollama"
    OPENAI = "openai"


class AttachedEngine(Struct, frozen=True, kw_only=True):
    """A remote engine that an operator attached. slots: requests it is given at once."""

    name: str
    kind: EngineKind
    url: str
    api_key: str = ""
    slots: int = 4


class EngineModel(Struct, frozen=True):
    """A model that an engine offers. key: what routing compares.  served_as: the name to ask that engine for.

    slots: requests that this model takes at once, where each has slots of its own; 0 = what the engine says.
    needs_bytes: memory that one replica takes there, for each number of slots that it may be given, most first; empty
    = not known.
    """

    key: str
    served_as: str
    loaded: bool = False
    record: ModelRecord | None = None
    running: LoadedModel | None = None
    slots: int = 0
    needs_bytes: tuple[int, ...] = ()


class EngineFacts(Struct, frozen=True):
    """What is known of one engine. Advisory; the owner of the slots decides.

    outstanding_tokens: predicted tokens still to be produced for requests in flight.  prefill_tps, decode_tps:
    measured moving averages, per stream; 0 = not yet measured.  age_ms: since the model list was last confirmed.
    busy: requests in flight by model key where each model has slots of its own, so that `slots` counts for each;
    None where all models share them.  node_id: of the node that has it, "" = this one.  out: why it takes no new
    requests, whatever the model; "" = it does.  free_memory_bytes: for more models, 0 = not known.
    """

    engine_id: str
    kind: EngineKind
    models: dict[str, EngineModel]
    slots: int
    in_flight: int = 0
    outstanding_tokens: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    load_ms: float = 0.0
    reachable: bool = True
    age_ms: float = 0.0
    busy: dict[str, int] | None = None
    node_id: str = ""
    out: str = ""
    free_memory_bytes: int = 0


class FleetSnapshot(Struct, frozen=True):
    """All engines at one moment; every fact carries its age."""

    taken_ms: float
    engines: tuple[EngineFacts, ...]
