"""One node in the place of another among those that hold the state."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from ollamamax.core.catalog.commands import SetHosts
from ollamamax.core.errors import Conflict, OllamaMaxError, StateUnavailable
from ollamamax.core.types import NodeRecord, Progress, Seat
from ollamamax.ports import EtcdMembers, KeyRing
from ollamamax.services.control import Control
from ollamamax.services.ha_calls import HaCalls
from ollamamax.services.ha_wire import Prepare
from ollamamax.services.replica import Replica
from ollamamax.services.voter import Voter
from ollamamax.services.voter_members import raft_address

_LIMIT_S: Final = 60.0
_PAUSE_S: Final = 0.3
_T = TypeVar("_T")


class Members:
    """On a node that hosts the state. alive: the other nodes that answer.  find: where a node is found now."""

    def __init__(
        self,
        voter: Voter,
        calls: HaCalls,
        keys: KeyRing,
        replica: Replica,
        control: Control,
        alive: Callable[[], Sequence[NodeRecord]],
        find: Callable[[str], NodeRecord],
    ) -> None:
        self._voter = voter
        self._calls = calls
        self._keys = keys
        self._replica = replica
        self._control = control
        self._alive = alive
        self._find = find

    def spare(self, old_id: str) -> NodeRecord | None:
        """Who could take the place: the first one to have joined that is there, and holds nothing yet."""
        catalog = self._replica.catalog
        there = {node.node_id for node in self._alive()} | {self._voter.place.node_id}
        for node in catalog.nodes.values():
            if node.node_id in there and node.node_id not in (*catalog.home.hosts, old_id):
                return node
        return None

    async def replace(self, old: str, new: str) -> AsyncGenerator[Progress, None]:
        """Steps, the last one "success". May be repeated after a failure. new: as ReplaceAsk says.

        Raises: NodeNotFound, Conflict, StateUnavailable, StateError.
        """
        catalog = self._replica.catalog
        home, left = catalog.home, catalog.node(old)
        coming = self._coming(left, new)
        if left.node_id not in home.hosts:
            if coming is None or coming.node_id in home.hosts:
                yield Progress("success")
                return
            raise Conflict(f"node {left.name} does not hold the cluster's state; `ollamamax cluster ha status` tells")
        if home.kind != "etcd" or len(home.hosts) == 1:
            raise Conflict("nobody can take the place of the only member: `ollamamax cluster ha disable` first")
        if coming is not None:
            yield Progress(f"looking at {coming.name}")
            look = (await self._calls.look([coming], external=False))[coming.node_id]
            if look.trouble:
                raise Conflict(f"node {coming.name} can't hold the cluster's state. {look.trouble}")
        members = await self._voter.members()
        try:
            yield Progress(f"removing {left.name} from etcd")
            await self._remove(members, left, coming)
            if coming is not None:
                async for step in self._take_in(members, coming):
                    yield step
        finally:
            await members.close()
        kept = [node_id for node_id in home.hosts if node_id != left.node_id]
        hosts = (*kept, coming.node_id) if coming is not None else tuple(kept)
        await self._control.run(SetHosts(hosts, expected=home.hosts))
        yield Progress("success")

    def _coming(self, left: NodeRecord, new: str) -> NodeRecord | None:
        """Raises: NodeNotFound, Conflict."""
        catalog = self._replica.catalog
        if new == "-":
            return None
        coming = catalog.node(new) if new else self.spare(left.node_id)
        if coming is None:
            raise Conflict(
                f"no other node is there that could take the place of {left.name}: let one join "
                "(`ollamamax token create`), or let the others go on without it (`--nobody`)"
            )
        if coming.node_id in catalog.home.hosts and left.node_id in catalog.home.hosts:
            raise Conflict(f"node {coming.name} holds the cluster's state already: name another one")
        return coming

    async def _remove(self, members: EtcdMembers, left: NodeRecord, coming: NodeRecord | None) -> None:
        """Who leaves, and what an earlier try left of who comes."""
        gone = {left.node_id, coming.node_id if coming is not None else ""}
        addresses = {raft_address(one) for one in coming.addresses} if coming is not None else set()
        for member in await members.members():
            if member.name in gone or (not member.name and addresses & set(member.peer_addresses)):
                await _persevere(partial(members.remove, member.member_id))

    async def _take_in(self, members: EtcdMembers, node: NodeRecord) -> AsyncGenerator[Progress, None]:
        authority = self._keys.authority
        if authority is None:
            raise Conflict("this node lacks the key of the cluster's authority (ca.key), which the new one needs")
        standing = await members.members()
        taken = {address for member in standing for address in member.peer_addresses}
        own = tuple(one for one in map(raft_address, self._find(node.node_id).addresses) if one not in taken)
        if not own:
            raise Conflict(f"node {node.name} has no address of its own: set peer.advertise there")
        yield Progress(f"starting etcd on {node.name}")
        member = await _persevere(lambda: members.add_learner(own))
        generation = self._voter.seat_generation
        known = {one.name: one.peer_addresses for one in standing}
        members_now = {**known, node.node_id: own}
        seat = Seat(members=members_now, token=self._voter.seat_token, is_joining=True)
        try:
            await self._calls.prepare(
                [node],
                Prepare(generation=generation, seat=seat, key=authority.export(), certificate=authority.certificate),
            )
            yield Progress(f"waiting until {node.name} has caught up")
            await self._calls.ready([node], generation)
            await _persevere(lambda: members.promote(member.member_id))
        except OllamaMaxError:
            await self._calls.cancel([node], generation)
            await members.remove(member.member_id)
            raise


async def _persevere(act: Callable[[], Awaitable[_T]]) -> _T:
    """etcd changes members only while it finds the others well, and a new one votes only once it has caught up.

    Raises: StateUnavailable, the last one, after a minute.
    """
    until_s = asyncio.get_running_loop().time() + _LIMIT_S
    while True:
        try:
            return await act()
        except StateUnavailable:
            if asyncio.get_running_loop().time() > until_s:
                raise
            await asyncio.sleep(_PAUSE_S)
