"""A cluster of two that remembers what it was asked to do."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from msgspec.structs import replace

from ollamamax.core.errors import NodeNotFound, NotFound, OllamaMaxError
from ollamamax.core.types import (
    ClusterEvent,
    ClusterStatus,
    FoundCluster,
    Joined,
    NewToken,
    NodeState,
    NodeView,
    TokenView,
)

ALPHA = NodeView(
    name="alpha",
    node_id="a" * 16,
    state=NodeState.READY,
    addresses=("10.0.0.1:11435",),
    joined_ns=1,
    version="0.9.1",
    role="router",
    is_this=True,
    is_holder=True,
    facts_age_ms=12.5,
    loaded=("tiny:latest",),
)
BETA = NodeView(
    name="beta", node_id="b" * 16, state=NodeState.SUSPECT, addresses=("10.0.0.2:1",), joined_ns=2, version="0.9.0"
)
STATUS = ClusterStatus(
    cluster_id="c" * 16,
    name="home",
    created_ns=1,
    this="alpha",
    holder="alpha",
    holder_reachable=True,
    revision=7,
    role="router",
    certificate_expires_ns=9,
    nodes={"ready": 1, "suspect": 1},
)
SECRET = "omx1.secret"


class FakeCluster:
    """fault: raised by whatever writes.  news: what events() goes on with."""

    def __init__(self) -> None:
        self.known = {"alpha": ALPHA, "beta": BETA}
        self.shown = STATUS
        self.fault: OllamaMaxError | None = None
        self.done: list[tuple[object, ...]] = []
        self.remembered = [ClusterEvent(at_ns=1, kind="founded"), ClusterEvent(at_ns=5, kind="joined", node="beta")]
        self.news: asyncio.Queue[ClusterEvent | Exception | None] = asyncio.Queue()
        self.followers = 0

    def nodes(self) -> Sequence[NodeView]:
        return list(self.known.values())

    def node(self, node: str) -> NodeView:
        for view in self.known.values():
            if node in (view.name, view.node_id):
                return view
        raise NodeNotFound(f"no node '{node}' is in the cluster")

    def status(self) -> ClusterStatus:
        return self.shown

    async def remove(self, node: str) -> None:
        self._write("remove", node)
        del self.known[self.node(node).name]

    async def cordon(self, node: str, cordoned: bool) -> None:
        self._write("cordon", node, cordoned)
        state = NodeState.CORDONED if cordoned else NodeState.READY
        self.known[node] = replace(self.node(node), state=state)

    async def drain(self, node: str, timeout_ms: int, on_timeout: str) -> None:
        self._write("drain", node, timeout_ms, on_timeout)
        self.known[node] = replace(self.node(node), state=NodeState.DRAINING)

    async def undrain(self, node: str) -> None:
        self._write("undrain", node)
        self.known[node] = replace(self.node(node), state=NodeState.READY)

    async def label(self, node: str, put: Mapping[str, str], drop: Sequence[str]) -> None:
        self._write("label", node, dict(put), list(drop))
        self.known[node] = replace(self.node(node), labels=dict(put))

    async def create_token(self, ttl_ms: int, uses: int) -> NewToken:
        self._write("create_token", ttl_ms, uses)
        return NewToken(token=SECRET, token_id="t1", expires_ns=9, uses=uses)

    def tokens(self) -> Sequence[TokenView]:
        return [TokenView(token_id="t1", created_ns=1, expires_ns=9, uses_left=1)]

    async def revoke_token(self, token_id: str) -> None:
        self._write("revoke_token", token_id)
        if token_id != "t1":
            raise NotFound(f"no token '{token_id}'")

    async def join(self, token: str, name: str, force: bool) -> Joined:
        self._write("join", token, name, force)
        return Joined(cluster_id="d" * 16, cluster="work", node=name or "alpha", node_id="e" * 16)

    def recent_events(self) -> Sequence[ClusterEvent]:
        return self.remembered

    async def events(self, after_ns: int) -> AsyncGenerator[ClusterEvent, None]:
        self.followers += 1
        try:
            for event in self.remembered:
                if event.at_ns > after_ns:
                    yield event
            while (news := await self.news.get()) is not None:
                if isinstance(news, Exception):
                    raise news
                yield news
        finally:
            self.followers -= 1

    async def discover(self, timeout_ms: int) -> Sequence[FoundCluster]:
        self._write("discover", timeout_ms)
        return [FoundCluster(addresses=("10.0.0.1:11435",), cluster_id="c" * 16, name="home", is_ours=True)]

    def _write(self, *what: object) -> None:
        if self.fault is not None:
            raise self.fault
        self.done.append(what)
