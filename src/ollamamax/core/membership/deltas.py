"""What a node tells of itself, in pieces: only sections that changed travel, numbered, so that a gap is noticed.

A *message* is msgpack: the node, its instance (drawn at each start), a sequence number, whether it is whole, and
sections by name::

    base                name, versions, addresses, role, revision, draining, queued, settings_version, state_generation
    memory              free and total memory, GPUs
    loaded              what its own engine has in memory
    engines             names, in order; an engine that is not named is gone
    models/<engine>     what it offers, apart from what runs
    running/<engine>    which of those are loaded, and since when
    load/<engine>       kind, slots, requests and tokens under way, measured rates

A section replaces the one of the same name. A whole message of number n is what all messages up to n amount to. An
*echo* has no sections and the number of the last message: whoever has not read that one notices.
Fields and sections that are unknown are left alone: a newer program may have written them.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, structs

from ollamamax.core.errors import PeerProtocol
from ollamamax.core.types import EngineKind, EngineModel, LoadedModel, NodeEngine, NodeFacts

MAX_MESSAGE_BYTES: Final = 4 << 20
MAX_ENGINES: Final = 256
MAX_MODELS: Final = 10_000
MAX_ADDRESSES: Final = 8
_MAX_SECTIONS: Final = 4 + 3 * MAX_ENGINES


class _Base(Struct, frozen=True, kw_only=True):
    name: str
    version: str
    protocol_min: int
    protocol_max: int
    addresses: tuple[str, ...]
    role: str
    revision: int = 0
    draining: bool = False
    queued: int = 0
    settings_version: int = 0
    state_generation: int = 0


class _Memory(Struct, frozen=True, kw_only=True):
    free_memory_bytes: int = 0
    total_memory_bytes: int = 0
    gpu_count: int = 0


class _Load(Struct, frozen=True, kw_only=True):
    kind: str
    slots: int
    in_flight: int = 0
    outstanding_tokens: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    load_ms: float = 0.0
    reachable: bool = True
    busy: dict[str, int] | None = None


class _Running(Struct, frozen=True):
    key: str
    loaded: bool
    running: LoadedModel | None


class _Message(Struct, frozen=True, kw_only=True):
    node_id: str
    instance: str
    sequence: int
    is_whole: bool
    sections: dict[str, Raw]


_ENCODER: Final = msgspec.msgpack.Encoder(order="deterministic")
_MESSAGES: Final = msgspec.msgpack.Decoder(_Message)
_SINGLE: Final[dict[str, Callable[[Raw], Any]]] = {
    "base": msgspec.msgpack.Decoder(_Base).decode,
    "memory": msgspec.msgpack.Decoder(_Memory).decode,
    "loaded": msgspec.msgpack.Decoder(tuple[LoadedModel, ...]).decode,
    "engines": msgspec.msgpack.Decoder(tuple[str, ...]).decode,
}
_PER_ENGINE: Final[dict[str, Callable[[Raw], Any]]] = {
    "models": msgspec.msgpack.Decoder(tuple[EngineModel, ...]).decode,
    "running": msgspec.msgpack.Decoder(tuple[_Running, ...]).decode,
    "load": msgspec.msgpack.Decoder(_Load).decode,
}
_KINDS: Final = {kind.value: kind for kind in EngineKind}


class FactsWriter:
    """What was told so far, and the next message. Facts must all be of one node and one instance."""

    def __init__(self) -> None:
        self._told: dict[str, bytes] = {}
        self._sequence = 0
        self._node = ("", "")

    def delta(self, facts: NodeFacts) -> bytes | None:
        """The message that brings those who know all former ones up to date; None if nothing changed."""
        sections = _sections(facts)
        changed = {name: data for name, data in sections.items() if self._told.get(name) != data}
        if not changed:
            return None
        is_first = not self._told
        self._node = (facts.node_id, facts.instance)
        self._told = sections
        self._sequence += 1
        return self._message(changed, is_first)

    def whole(self) -> bytes:
        """All that was told; something must have been."""
        assert self._told, "there is something to tell"
        return self._message(self._told, is_whole=True)

    def echo(self) -> bytes:
        """The number of the last message again; there must have been one."""
        assert self._told, "there is something to repeat"
        return self._message({}, is_whole=False)

    def _message(self, sections: dict[str, bytes], is_whole: bool) -> bytes:
        node_id, instance = self._node
        raw = {name: Raw(data) for name, data in sections.items()}
        return _ENCODER.encode(
            _Message(node_id=node_id, instance=instance, sequence=self._sequence, is_whole=is_whole, sections=raw)
        )


class Reading(Enum):
    """NEWS: the facts are others now.  OLD: known already.  GAP: something before it is missing: ask for the whole."""

    NEWS = "news"
    OLD = "old"
    GAP = "gap"


class FactsReader:
    """What one other node told. facts: None until its first whole message."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._instance = ""
        self._sequence = 0
        self._sections: dict[str, Any] = {}
        self.facts: NodeFacts | None = None

    def read(self, data: bytes) -> Reading:
        """Take a message in. Mutates self, unless it raises.

        Raises: PeerProtocol for one that is garbage, too large, or of another node.
        """
        message = _decode(data, self._node_id)
        is_known = self.facts is not None and message.instance == self._instance
        if is_known and message.sequence <= self._sequence:
            return Reading.OLD
        is_next = is_known and message.sequence == self._sequence + 1 and len(message.sections) > 0
        if not message.is_whole and not is_next:
            return Reading.GAP
        sections = {} if message.is_whole else dict(self._sections)
        try:
            for name, raw in message.sections.items():
                kind, slash, _ = name.partition("/")
                decode = _PER_ENGINE.get(kind) if slash else _SINGLE.get(kind)
                if decode is not None:
                    sections[name] = decode(raw)
            engines = self._engines(message, sections)
            facts = _facts(message, sections, engines)
        except (msgspec.MsgspecError, KeyError, ValueError) as error:
            raise PeerProtocol(f"what node {self._node_id} tells of itself can't be read: {error}") from None
        kept = {*_SINGLE, *(f"{kind}/{name}" for name in engines for kind in _PER_ENGINE)}
        self._sections = {name: value for name, value in sections.items() if name in kept}
        self._instance, self._sequence, self.facts = message.instance, message.sequence, facts
        return Reading.NEWS

    def _engines(self, message: _Message, sections: dict[str, Any]) -> dict[str, NodeEngine | None]:
        """By name; None for one of a kind that is not known. Models that did not change are the same objects."""
        names = sections["engines"]
        if len(names) > MAX_ENGINES or len(set(names)) < len(names):
            raise ValueError("an engine is named twice, or there are too many")
        known = self.facts.engines if self.facts is not None and not message.is_whole else ()
        former = {engine.name: engine for engine in known}
        engines = {}
        for name in names:
            kept = None if {f"models/{name}", f"running/{name}"} & message.sections.keys() else former.get(name)
            models = _models(name, sections) if kept is None else kept.models
            load = sections[f"load/{name}"]
            kind = _KINDS.get(load.kind)
            engines[name] = (
                None if kind is None else NodeEngine(name=name, models=models, **{**structs.asdict(load), "kind": kind})
            )
        return engines

    def is_of(self, instance: str) -> bool:
        """Whether the facts are those of that start of the node."""
        return self.facts is not None and self._instance == instance


def _sections(facts: NodeFacts) -> dict[str, bytes]:
    values: dict[str, object] = {
        "base": _Base(**{name: getattr(facts, name) for name in _Base.__struct_fields__}),
        "memory": _Memory(**{name: getattr(facts, name) for name in _Memory.__struct_fields__}),
        "loaded": facts.loaded,
        "engines": tuple([engine.name for engine in facts.engines]),
    }
    for engine in facts.engines:
        models, running = [], []
        for model in engine.models:
            is_running = model.loaded or model.running is not None
            models.append(structs.replace(model, loaded=False, running=None) if is_running else model)
            if is_running:
                running.append(_Running(model.key, model.loaded, model.running))
        values[f"models/{engine.name}"] = models
        values[f"running/{engine.name}"] = running
        load = {name: getattr(engine, name) for name in _Load.__struct_fields__}
        values[f"load/{engine.name}"] = _Load(**{**load, "kind": engine.kind.value})
    return {name: _ENCODER.encode(value) for name, value in values.items()}


def _decode(data: bytes, node_id: str) -> _Message:
    if len(data) > MAX_MESSAGE_BYTES:
        raise PeerProtocol(f"node {node_id} tells more than {MAX_MESSAGE_BYTES} bytes of itself")
    try:
        message = _MESSAGES.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise PeerProtocol(f"what node {node_id} tells of itself can't be read: {error}") from None
    if message.node_id != node_id:
        raise PeerProtocol(f"node {node_id} tells something of another node")
    if len(message.sections) > _MAX_SECTIONS:
        raise PeerProtocol(f"node {node_id} tells of more than {MAX_ENGINES} engines")
    return message


def _facts(message: _Message, sections: dict[str, Any], engines: dict[str, NodeEngine | None]) -> NodeFacts:
    """Raises: KeyError for a section that is missing, ValueError for too many of something."""
    base, memory, loaded = sections["base"], sections["memory"], sections["loaded"]
    if len(base.addresses) > MAX_ADDRESSES or len(loaded) > MAX_MODELS:
        raise ValueError("it has too many addresses, or too many models in memory")
    return NodeFacts(
        node_id=message.node_id,
        instance=message.instance,
        loaded=loaded,
        engines=tuple([engine for engine in engines.values() if engine is not None]),
        **structs.asdict(base),
        **structs.asdict(memory),
    )


def _models(name: str, sections: dict[str, Any]) -> tuple[EngineModel, ...]:
    offered: tuple[EngineModel, ...] = sections[f"models/{name}"]
    if len(offered) > MAX_MODELS:
        raise ValueError("an engine offers too many models")
    running = {row.key: row for row in sections[f"running/{name}"]}
    return tuple(
        [
            structs.replace(model, loaded=running[model.key].loaded, running=running[model.key].running)
            if model.key in running
            else model
            for model in offered
        ]
    )
