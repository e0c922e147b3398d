"""Nodes of a mesh for tests: papers, free ports, and what each has heard so far."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from free_ports import free_port
from ollamamax.ports import Mesh, MeshConfig, MeshEvent, MeshRole, NodeKeys
from peer_world import Cluster

WAIT_S = 60.0
_PAUSE_S = 0.02
T = TypeVar("T")


def node_id(letter: str) -> str:
    return letter * 16


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


class Ear:
    """Reads a mesh's events as they come. letter: of the node."""

    def __init__(self, mesh: Mesh, letter: str) -> None:
        self.mesh = mesh
        self.letter = letter
        self.signs: list[tuple[str, bool]] = []
        self.messages: list[tuple[str, bytes]] = []
        self.alive: set[str] = set()
        self._news = asyncio.Condition()
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        async with aclosing(self.mesh.events()) as events:
            async for event in events:
                async with self._news:
                    self._take(event)
                    self._news.notify_all()

    def _take(self, event: MeshEvent) -> None:
        if event.alive is None:
            self.messages.append((event.node_id[:1], event.data))
            return
        self.signs.append((event.node_id[:1], event.alive))
        if event.alive:
            self.alive.add(event.node_id[:1])
        else:
            self.alive.discard(event.node_id[:1])

    async def until(self, holds: Callable[[], bool], limit_s: float = WAIT_S) -> None:
        try:
            async with asyncio.timeout(limit_s), self._news:
                await self._news.wait_for(holds)
        except TimeoutError:
            raise AssertionError(f"heard {self.alive}, {self.signs}, {self.messages}") from None

    async def sees(self, letters: Iterable[str]) -> None:
        wanted = set(letters)
        await self.until(lambda: self.alive == wanted)

    async def ended(self) -> None:
        """The events are over."""
        async with asyncio.timeout(WAIT_S):
            await self._task

    async def close(self) -> None:
        await self.mesh.close()
        await self.ended()


class Nodes:
    """Makes and closes meshes. Routers listen on addresses of their own, and everybody knows all of them."""

    def __init__(self, make: Callable[[], Mesh], cluster: Cluster | None = None) -> None:
        self.make = make
        self.cluster = cluster or Cluster()
        self.addresses: dict[str, str] = {}
        self.papers: dict[str, NodeKeys] = {}
        self.ears: list[Ear] = []

    def config(
        self,
        letter: str,
        role: MeshRole,
        connect: Iterable[str] | None = None,
        denied: str = "",
        cluster: Cluster | None = None,
        lease_ms: int = 3_000,
    ) -> MeshConfig:
        """connect: letters of routers; None = all that there are."""
        if role is MeshRole.ROUTER:
            self.addresses.setdefault(letter, free_address())
        known = self.addresses if connect is None else connect
        keys = cluster.keys(node_id(letter)) if cluster is not None else self._keys(letter)
        return MeshConfig(
            keys=keys,
            role=role,
            listen=self.addresses.get(letter, "127.0.0.1:0"),
            connect=tuple(self.addresses[router] for router in known if router != letter),
            denied=frozenset(map(node_id, denied)),
            lease_ms=lease_ms,
            multicast=False,
        )

    def _keys(self, letter: str) -> NodeKeys:
        if letter not in self.papers:
            self.papers[letter] = self.cluster.keys(node_id(letter))
        return self.papers[letter]

    async def open(self, config: MeshConfig) -> Ear:
        """A new mesh, opened so; closed at the end."""
        ear = Ear(self.make(), config.keys.node_id[:1])
        self.ears.append(ear)
        whole = f"all of {ear.letter}".encode()
        ear.mesh.answer(lambda: whole)
        await ear.mesh.open(config)
        return ear

    async def router(self, letter: str, denied: str = "") -> Ear:
        return await self.open(self.config(letter, MeshRole.ROUTER, denied=denied))

    async def client(self, letter: str, connect: Iterable[str] | None = None, denied: str = "") -> Ear:
        return await self.open(self.config(letter, MeshRole.CLIENT, connect, denied))


@asynccontextmanager
async def mesh_nodes(make: Callable[[], Mesh]) -> AsyncGenerator[Nodes, None]:
    nodes = Nodes(make)
    try:
        yield nodes
    finally:
        await asyncio.gather(*(ear.close() for ear in nodes.ears))


async def comes_to(wanted: T, ask: Callable[[], Awaitable[T]]) -> None:
    """Returns once the answer is the one that is wanted; fails with the last one."""
    found: list[T] = []
    try:
        async with asyncio.timeout(WAIT_S):
            while not found or found[-1] != wanted:
                found.append(await ask())
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise AssertionError(f"wanted {wanted}, last found {found[-1:]}") from None


async def hears(ear: Ear, letters: str) -> None:
    """Asked anew, who is there now comes to be these."""
    await comes_to(set(letters), lambda: heard_by(ear))


async def is_told(ear: Ear, answers: dict[str, bytes], letter: str = "") -> None:
    """What it is told, by one node or by all, comes to be this."""
    await comes_to(answers, lambda: told_to(ear, letter))


async def tells(speaker: Ear, data: bytes, *ears: Ear) -> None:
    """All of them come to hear it: told again where it was lost, as it may be while links come and go."""

    async def have_heard() -> bool:
        await speaker.mesh.publish(data)
        return all((speaker.letter, data) in ear.messages for ear in ears)

    await comes_to(True, have_heard)


async def heard_by(ear: Ear) -> set[str]:
    """First letters of who is there now, asked for anew."""
    return {name[:1] for name in await ear.mesh.alive()}


async def told_to(ear: Ear, letter: str = "") -> dict[str, bytes]:
    answers = await ear.mesh.ask(node_id(letter) if letter else "")
    return {name[:1]: data for name, data in answers.items()}
