"""Soft state in memory: meshes around a hub, with cuts between them and messages that are lost, doubled or late."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final

from ollamamax.core.errors import PeerUnavailable
from ollamamax.ports import Dice, MeshConfig, MeshEvent, MeshRole
from ollamamax.testing.clock import SeededDice

MAX_MESSAGES: Final = 8_192


class MemoryHub:
    """What meshes of one test are connected by. Who has papers of another authority does not exist for the others.

    loss, doubling: shares of messages in [0, 1].
    """

    def __init__(self, dice: Dice | None = None) -> None:
        self.loss = 0.0
        self.doubling = 0.0
        self._dice = dice or SeededDice()
        self._open: list[MemoryMesh] = []
        self._cuts: set[frozenset[str]] = set()
        self._late: list[tuple[MemoryMesh, MeshEvent]] | None = None

    def mesh(self) -> "MemoryMesh":
        """One more, not open yet."""
        return MemoryMesh(self)

    def cut(self, node_id: str, *others: str) -> None:
        """Nothing passes between them directly; no others: it is alone."""
        known = {mesh.node_id for mesh in self._open} - {node_id}
        self._cuts |= {frozenset({node_id, other}) for other in others or known}
        self.look()

    def heal(self) -> None:
        """All links work."""
        self._cuts.clear()
        self.look()

    def hold(self) -> None:
        """From now on messages are kept back."""
        self._late = []

    def release(self, order: Callable[[list[tuple["MemoryMesh", MeshEvent]]], None] = lambda late: None) -> None:
        """Deliver what was kept back, in the order that `order` gives it."""
        late, self._late = self._late or [], None
        order(late)
        for mesh, event in late:
            mesh.hear(event)

    def join(self, mesh: "MemoryMesh", config: MeshConfig) -> None:
        """Raises: PeerUnavailable if another one listens there."""
        if config.role is MeshRole.ROUTER and any(
            one is not mesh and one.config.role is MeshRole.ROUTER and one.config.listen == config.listen
            for one in self._open
        ):
            raise PeerUnavailable(f"can't listen on {config.listen}: it is in use")
        if mesh not in self._open:
            self._open.append(mesh)

    def leave(self, mesh: "MemoryMesh") -> None:
        """It is closed."""
        if mesh in self._open:
            self._open.remove(mesh)
        self.look()

    def look(self) -> None:
        """Tell all what has changed for them."""
        for mesh in self._open:
            mesh.see({one.node_id: one for one in self._reached(mesh)})

    def deliver(self, mesh: "MemoryMesh", event: MeshEvent) -> None:
        """A message, with what may happen to it on the way."""
        copies = (self._dice.random() >= self.loss) + (self._dice.random() < self.doubling)
        for _ in range(copies):
            if self._late is not None:
                self._late.append((mesh, event))
            else:
                mesh.hear(event)

    def _reached(self, start: "MemoryMesh") -> Iterable["MemoryMesh"]:
        """All that hang together with it, itself included; nobody if it is a client without a router."""
        reached, frontier = {start: None}, [start]
        while frontier:
            here = frontier.pop()
            for there in self._open:
                if there not in reached and self._are_linked(here, there):
                    reached[there] = None
                    frontier.append(there)
        return reached if any(mesh.config.role is MeshRole.ROUTER for mesh in reached) else ()

    def _are_linked(self, one: "MemoryMesh", other: "MemoryMesh") -> bool:
        return (
            MeshRole.ROUTER in (one.config.role, other.config.role)
            and one.config.keys.ca == other.config.keys.ca
            and one.node_id not in other.config.denied
            and other.node_id not in one.config.denied
            and frozenset({one.node_id, other.node_id}) not in self._cuts
        )


class MemoryMesh:
    """Twin of the mesh over zenoh. Made by a hub."""

    config: MeshConfig

    def __init__(self, hub: MemoryHub) -> None:
        self.node_id = ""
        self.opened: list[MeshConfig] = []
        """All configurations so far."""
        self._hub = hub
        self._view: dict[str, MemoryMesh] = {}
        self._whole: Callable[[], bytes] | None = None
        self._events: deque[MeshEvent] = deque()
        self._messages = 0
        self._news = asyncio.Event()
        self._is_closed = False

    async def open(self, config: MeshConfig) -> None:
        """See Mesh. Raises: PeerUnavailable."""
        if self._is_closed:
            raise PeerUnavailable("the mesh was closed")
        self._hub.join(self, config)
        self.config, self.node_id = config, config.keys.node_id
        self.opened.append(config)
        self._hub.look()
        if self.node_id in self._view:
            self.hear(MeshEvent(self.node_id, True))

    async def publish(self, data: bytes) -> None:
        """See Mesh."""
        for node_id, mesh in self._view.items():
            if node_id != self.node_id:
                self._hub.deliver(mesh, MeshEvent(self.node_id, None, data))

    def answer(self, whole: Callable[[], bytes]) -> None:
        """See Mesh."""
        self._whole = whole

    async def ask(self, node_id: str = "", *, timeout_ms: float = 2_000.0) -> dict[str, bytes]:
        """See Mesh."""
        await asyncio.sleep(0)
        return {
            name: mesh._whole()
            for name, mesh in self._view.items()
            if name != self.node_id and node_id in ("", name) and mesh._whole is not None
        }

    async def alive(self, *, timeout_ms: float = 2_000.0) -> frozenset[str]:
        """See Mesh."""
        await asyncio.sleep(0)
        return frozenset(self._view)

    async def events(self) -> AsyncGenerator[MeshEvent, None]:
        """See Mesh."""
        while not self._is_closed:
            if self._events:
                event = self._events.popleft()
                self._messages -= event.alive is None
                yield event
            else:
                self._news.clear()
                await self._news.wait()

    async def close(self) -> None:
        """See Mesh."""
        self._is_closed = True
        self._view = {}
        self._hub.leave(self)
        self._news.set()

    def see(self, view: "dict[str, MemoryMesh]") -> None:
        """For the hub: who can be heard now."""
        former, self._view = self._view, view
        for node_id in former.keys() - view.keys():
            self.hear(MeshEvent(node_id, False))
        for node_id in view.keys() - former.keys():
            self.hear(MeshEvent(node_id, True))

    def hear(self, event: MeshEvent) -> None:
        """For the hub: an event that arrives."""
        if self._is_closed:
            return
        if event.alive is None:
            if self._messages >= MAX_MESSAGES:
                event = MeshEvent("")
                if self._events[-1] == event:
                    return
            self._messages += 1
        self._events.append(event)
        self._news.set()
