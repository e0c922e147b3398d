"""Two nodes: one has engines and answers, the other asks. Real accounts, twins of engines, links in memory."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway_world import LocalTwin, offer

from ollamamax.core.errors import NodeNotFound
from ollamamax.core.types import AttachedEngine, ChatRequest, EngineKind, Message, ModelEntry, NodeRecord, Options
from ollamamax.ports import PeerLink, PeerMethods
from ollamamax.services.engine_host import EngineHost, EngineHostConfig
from ollamamax.services.fleet import Fleet, FleetConfig
from ollamamax.services.peer_engine import PeerEngine, PeerEngineConfig
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.engine import MemoryEngineBook, TwinConnector, TwinEngine
from ollamamax.testing.peers import MemoryPeers
from peer_world import A, B, record

BRISK = PeerEngineConfig(probe_ms=500.0, silence_ms=500.0, embed_ms=5_000.0)


class Host:
    """The node with engines: `local` has tiny in memory, `side` is attached and has "Far:latest"."""

    def __init__(
        self,
        config: EngineHostConfig | None = None,
        ensure: Callable[[str], Awaitable[None]] | None = None,
        entry: Callable[[str], ModelEntry | None] = lambda key: None,
    ) -> None:
        self.clock = FakeClock(1_000.0)
        self.local = LocalTwin([offer()])
        self.side = TwinEngine([offer("Far:latest")], kind=EngineKind.OPENAI)
        attached = AttachedEngine(name="side", kind=EngineKind.OPENAI, url="http://x", slots=2)
        self.fleet = Fleet(
            self.local,
            TwinConnector({"side": self.side}),
            MemoryEngineBook((attached,)),
            self.clock,
            SeededDice(1),
            FleetConfig(),
            "node-b",
            entry,
        )
        self.host = EngineHost(self.fleet, self.clock, config, ensure)

    @property
    def methods(self) -> PeerMethods:
        return self.host.methods()

    @property
    def in_flight(self) -> int:
        return sum(facts.in_flight for facts in self.fleet.snapshot().engines)

    def check_idle(self) -> None:
        """All accounts add up, and nothing is left of any request."""
        self.fleet.check_invariants()
        assert self.in_flight == 0
        assert self.host._waiting == self.host._under_way == 0
        assert self.local.active == self.side.active == 0


@asynccontextmanager
async def hosting(host: Host) -> AsyncGenerator[Host, None]:
    await host.fleet.open()
    await host.fleet.refresh()
    try:
        yield host
        host.check_idle()
    finally:
        await host.fleet.close()


class Here:
    """The node that asks. knows: what it knows of the other, None = removed."""

    def __init__(self, link: PeerLink, knows: NodeRecord | None) -> None:
        self.link = link
        self.knows = knows

    def node(self) -> NodeRecord:
        if self.knows is None:
            raise NodeNotFound("node node-b is no member of the cluster")
        return self.knows

    def engine(self, name: str = "local", config: PeerEngineConfig = BRISK) -> PeerEngine:
        return PeerEngine(self.link, self.node, name, EngineKind.LLAMACPP, config)


@asynccontextmanager
async def two_nodes(
    config: EngineHostConfig | None = None,
    ensure: Callable[[str], Awaitable[None]] | None = None,
    entry: Callable[[str], ModelEntry | None] = lambda key: None,
) -> AsyncGenerator[tuple[Here, Host, MemoryPeers], None]:
    async with hosting(Host(config, ensure, entry)) as host:
        peers = MemoryPeers()
        peers.listen(B, [host.methods])
        here = Here(peers.link(A), record(B, 1))
        yield here, host, peers
        await here.link.close()


def chat(model: str = "tiny", limit: int | None = None, images: tuple[bytes, ...] = ()) -> ChatRequest:
    return ChatRequest(
        model=model, messages=(Message("user", "hi", images=images),), options=Options(num_predict=limit)
    )
