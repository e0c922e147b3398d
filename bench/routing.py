"""What one decision costs: microseconds of CPU from the facts of all engines to the slot that is taken, and back.

A node alone, and one among 200 that each tell of three engines with 50 models. "rare": three nodes have the model;
"popular": all do. "news": one node's new facts taken over.
"""

import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from common import machine
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.routing.predict import RequestFacts, RoutingConfig
from ollamamax.core.types import (
    EngineKind,
    EngineModel,
    LoadedModel,
    ModelDetails,
    ModelRecord,
    NodeEngine,
    NodeFacts,
    NodeRecord,
)
from ollamamax.services.fleet import Fleet, FleetConfig
from ollamamax.services.peer_members import PeerMembers
from ollamamax.services.router import Router
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.engine import MemoryEngineBook, TwinConnector, TwinEngine

NODES = 200
MODELS = 50
POPULAR, RARE = "popular:latest", "rare:latest"


class Local(TwinEngine):
    """This node's own engines: four slots per model."""

    slots = 4
    last_load_ms = 0.0

    def loaded(self) -> Sequence[LoadedModel]:
        """The popular one."""
        return (LoadedModel(POPULAR, f"digest of {POPULAR}", 1, 0, 4096, 0, ModelDetails()),)


class View:
    """A peer as the membership shows it."""

    def __init__(self, record: NodeRecord, facts: NodeFacts) -> None:
        self.record, self.facts, self.facts_at_ms, self.state = record, facts, 0.0, PeerState.ALIVE


class Membership:
    """All are there."""

    def __init__(self, views: dict[str, View]) -> None:
        self.views = views

    def peers(self) -> dict[str, View]:
        """By node id."""
        return self.views

    def watch(self, callback: Callable[[], None]) -> None:
        """Nothing changes by itself."""

    def doubt(self, node_id: str) -> None:
        """Nothing is doubted."""


def models(names: Sequence[str]) -> tuple[EngineModel, ...]:
    """Loaded ones with records."""
    return tuple(EngineModel(n, n, True, ModelRecord(n, f"digest of {n}", 1 << 30, 0, ModelDetails())) for n in names)


def peer(number: int) -> View:
    """A node with its own engine and two attached ones."""
    node_id = f"{number:016x}"
    names = [POPULAR, *[f"m{number}-{n}:latest" for n in range(MODELS - 1)]]
    if number < 3:
        names.append(RARE)
    engines = [
        NodeEngine(name="local", kind=EngineKind.LLAMACPP, slots=4, models=models(names), busy={}, decode_tps=50.0),
        *[
            NodeEngine(name=f"gpu{n}", kind=EngineKind.OLLAMA, slots=8, models=models([f"g{n}:latest"]))
            for n in range(2)
        ],
    ]
    facts = NodeFacts(
        node_id=node_id,
        instance="i",
        name=f"n{number}",
        version="1",
        protocol_min=1,
        protocol_max=1,
        addresses=(),
        role="client",
        engines=tuple(engines),
    )
    record = NodeRecord(
        node_id=node_id,
        name=f"n{number}",
        addresses=(),
        sequence=number + 1,
        joined_ns=0,
        key_hash="",
        version="1",
    )
    return View(record, facts)


def best_us(work: Callable[[], object], rounds: int = 5, seconds: float = 0.2) -> float:
    """CPU per call, the best of some rounds."""
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        work()
        count += 1
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(count):
            work()
        best = min(best, (time.process_time() - start) / count)
    return best * 1e6


def decision(router: Router, model: str) -> Callable[[], None]:
    """Look, choose, take a slot, give it back."""
    facts = RequestFacts(model, 100, 100)

    def work() -> None:
        best = router.choose(facts).best
        assert best is not None
        router.fleet.abandoned(router.begin(best, facts))

    return work


def main() -> None:
    """Print the table."""
    clock = FakeClock(1_000.0)
    fleet = Fleet(
        Local(models([POPULAR])), TwinConnector(), MemoryEngineBook(), clock, SeededDice(1), FleetConfig(), node="here"
    )
    fleet._local.set_models(models([POPULAR]))
    fleet._index.update(fleet._local)
    router = Router(fleet, RoutingConfig())
    print(f"machine: {machine()}\n\n| | us |\n|---|---|")
    print(f"| a node alone | {best_us(decision(router, POPULAR)):.1f} |")
    membership = Membership({f"{n:016x}": peer(n) for n in range(NODES)})
    start = time.process_time()
    members = PeerMembers(fleet, membership, lambda *_: TwinEngine(), lambda: None)
    took_ms = (time.process_time() - start) * 1e3
    print(f"| {NODES} nodes, rare | {best_us(decision(router, RARE)):.1f} |")
    print(f"| {NODES} nodes, popular | {best_us(decision(router, POPULAR)):.1f} |")
    first = f"{0:016x}"
    known = membership.views[first]

    def news() -> None:
        told = [replace(engine, prefill_tps=engine.prefill_tps + 1) for engine in known.facts.engines]
        membership.views[first] = View(known.record, replace(known.facts, engines=tuple(told)))
        members.sync()

    print(f"| {NODES} nodes, news of one | {best_us(news):.1f} |")
    print(f"\nall {NODES} nodes taken in: {took_ms:.0f} ms")


if __name__ == "__main__":
    main()
