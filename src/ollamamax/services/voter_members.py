"""The members of etcd that this node runs, by the generation of the home that each began with: at most one or two."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from ollamamax.core.catalog import grammar
from ollamamax.core.errors import OllamaMaxError, StateUnavailable
from ollamamax.core.types import EtcdAccess, EtcdSpec, MemberReport, Seat
from ollamamax.ports import Clock, Etcd, EtcdProcess, EtcdSeats, KeyRing

_LOG: Final = structlog.get_logger(__name__)
RAFT_OFFSET: Final = 2
CLIENT_OFFSET: Final = 3
"""Of etcd's ports, from the peer listener's; the next one is the mesh's."""
_READY_MS: Final = 60_000.0
_ASK_MS: Final = 2_000.0


class Place(Struct, frozen=True, kw_only=True):
    """Where this node is. listen: address that its etcd listens on for others.  port: of its peer listener.

    addresses: host:port of its peer listener, best first.  external: how an etcd of others is reached; None = not.
    etcd_name: the common name that members' certificates have.
    """

    node_id: str
    cluster_id: str
    listen: str
    port: int
    addresses: Callable[[], tuple[str, ...]]
    etcd_name: str
    external: EtcdAccess | None = None


class OwnMembers:
    """load() first of all, close() in the end. known: what is on disk.  running: started by start(), and not stopped.

    All methods may raise StoreError, DiskFull.
    """

    def __init__(self, place: Place, etcd: Etcd, seats: EtcdSeats, keys: KeyRing, clock: Clock) -> None:
        self._place = place
        self._etcd = etcd
        self._seats = seats
        self._keys = keys
        self._clock = clock
        self.known: dict[int, Seat] = {}
        self.running: dict[int, EtcdProcess] = {}

    async def load(self) -> None:
        """What is on disk."""
        self.known = dict(await self._seats.all())

    async def close(self) -> None:
        """Stop all. Idempotent."""
        await asyncio.gather(*(process.stop() for process in self.running.values()))
        self.running.clear()

    async def keep(self, generation: int, seat: Seat) -> None:
        """Remember it."""
        await self._seats.keep(generation, seat)
        self.known[generation] = seat

    async def start(self, generation: int) -> None:
        """Run one that is known.

        Raises: StateUnavailable without the authority's key, Unsupported, CertificateRefused.
        """
        seat, place = self.known[generation], self._place
        await self._certify(generation)
        spec = EtcdSpec(
            name=place.node_id,
            data_dir="",
            client_listen=self._client,
            peer_listen=f"{place.listen}:{place.port + RAFT_OFFSET}",
            peer_addresses=seat.members[place.node_id],
            members=seat.members,
            token=seat.token,
            is_joining=seat.is_joining,
            peer_name=place.etcd_name,
        )
        self.running[generation] = await self._etcd.start(self._seats.spec(generation, seat, spec))
        _LOG.info("etcd started", generation=generation, members=len(seat.members))

    async def stop(self, generation: int) -> None:
        """Its data stay."""
        if (process := self.running.pop(generation, None)) is not None:
            await process.stop()

    async def drop(self, generation: int) -> None:
        """Stop it, and remove all it had."""
        await self.stop(generation)
        self.known.pop(generation, None)
        await self._seats.remove(generation)

    async def ready(self, generation: int) -> None:
        """Returns once it knows a leader. Raises: StateUnavailable."""
        process = self.running.get(generation)
        if process is None:
            raise StateUnavailable("this node runs no etcd for that")
        await process.ready(_READY_MS)
        await self.keep(generation, replace(self.known[generation], was_started=True))

    async def report(self, generation: int) -> MemberReport:
        """How it is."""
        process = self.running.get(generation)
        if process is None:
            return MemberReport(trouble="no etcd runs here")
        try:
            members = await self._etcd.members(self.access(generation))
            try:
                async with asyncio.timeout(_ASK_MS / 1000.0):
                    status = await members.status()
            finally:
                await members.close()
        except TimeoutError:
            return MemberReport(restarts=process.restarts, trouble=process.trouble or "its etcd does not answer")
        except OllamaMaxError as error:
            return MemberReport(restarts=process.restarts, trouble=process.trouble or str(error))
        return MemberReport(status=status, restarts=process.restarts, trouble=process.trouble)

    def access(self, generation: int) -> EtcdAccess:
        """How it is reached from here."""
        return self._seats.access(generation, self._client)

    async def look_after(self, generation: int) -> None:
        """Papers that last, and the address where this node is found, if it has moved.

        Raises: StateUnavailable, StateError, CertificateRefused.
        """
        await self._certify(generation)
        seat, me = self.known[generation], self._place.node_id
        own = seat.members[me]
        others = {address for name, told in seat.members.items() if name != me for address in told}
        now = tuple(one for one in map(raft_address, self._place.addresses()) if one not in others)
        if not seat.was_started or not now or set(now) & set(own):
            return
        members = await self._etcd.members(self.access(generation))
        try:
            for member in await members.members():
                if member.name == me:
                    await members.update(member.member_id, now)
        finally:
            await members.close()
        await self.keep(generation, replace(seat, members={**seat.members, me: now}))

    @property
    def _client(self) -> str:
        """host:port of its own etcd for clients."""
        return f"127.0.0.1:{self._place.port + CLIENT_OFFSET}"

    async def _certify(self, generation: int) -> None:
        authority = self._keys.authority
        if authority is None:
            raise StateUnavailable("this node lacks the key of the cluster's authority")
        now_ns = self._clock.wall_ns()
        hosts = [grammar.split_address(address)[0] for address in self._place.addresses()]
        names = (*hosts, "127.0.0.1", "localhost")
        await self._seats.certify(generation, authority.certificate, now_ns, lambda: authority.sign_etcd(names, now_ns))


def raft_address(address: str) -> str:
    """Where a node's etcd is found by others, from the address of its peer listener."""
    host, port = grammar.split_address(address)
    return grammar.address(host, port + RAFT_OFFSET)


def raft_addresses(nodes: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The same of several nodes, by id: only what is one node's alone, for inner bridges are alike everywhere."""
    told = [raft_address(address) for addresses in nodes.values() for address in addresses]
    return {
        node_id: tuple(one for one in map(raft_address, addresses) if told.count(one) == 1)
        for node_id, addresses in nodes.items()
    }
