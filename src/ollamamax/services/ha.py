"""High availability of the cluster's state: on several nodes instead of one, back again, and how it is.

A change runs on the node that it needs (enable: the present holder; disable: the one that gets the state; replace: one
of the hosts); asked elsewhere it is passed on. It goes on when who asked has gone.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final, TypeVar

import structlog

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.records import HOME_LEVEL
from ollamamax.core.catalog.transactions import name_of, require_level
from ollamamax.core.errors import BadRequest, Conflict, OllamaMaxError, PeerError, StateUnavailable
from ollamamax.core.types import HomeView, NodeRecord, Progress, Seat, StateHome
from ollamamax.ports import Backups, Caller, KeyRing, PeerLink, PeerMethods
from ollamamax.services import ha_wire, join_wire
from ollamamax.services.ha_calls import HaCalls
from ollamamax.services.ha_care import Care
from ollamamax.services.ha_job import Jobs
from ollamamax.services.ha_members import Members
from ollamamax.services.ha_move import HomeMover
from ollamamax.services.ha_view import view
from ollamamax.services.ha_wire import DisableAsk, EnableAsk, Prepare, ReplaceAsk
from ollamamax.services.replica import Replica
from ollamamax.services.state_home import HomeState
from ollamamax.services.voter import Voter
from ollamamax.services.voter_members import raft_addresses

_LOG: Final = structlog.get_logger(__name__)
_T = TypeVar("_T")
_IDLE_MS: Final = 15_000.0
_RETRY_S: Final = 3.0
_TICK_S: Final = 60.0
_CATCH_UP_S: Final = 5.0
_MOST_VOTERS: Final = 7
_SUCCESS: Final = Progress("success")


class Ha:
    """run() in a task. alive: the other nodes that answer.  find: where a node is found now."""

    def __init__(
        self,
        voter: Voter,
        mover: HomeMover,
        members: Members,
        care: Care,
        calls: HaCalls,
        keys: KeyRing,
        state: HomeState,
        replica: Replica,
        link: PeerLink,
        backups: Backups,
        alive: Callable[[], Sequence[NodeRecord]],
        find: Callable[[str], NodeRecord],
    ) -> None:
        self._me = voter.place.node_id
        self._voter = voter
        self._mover = mover
        self._members = members
        self._care = care
        self._calls = calls
        self._keys = keys
        self._state = state
        self._replica = replica
        self._link = link
        self._backups = backups
        self._alive = alive
        self._find = find
        self._jobs = Jobs()
        self._news = asyncio.Event()
        replica.watch(self._on_catalog)

    def methods(self) -> PeerMethods:
        """What other nodes may ask of this one."""
        return PeerMethods(
            unary=self._calls.methods().unary,
            streams={
                ha_wire.ENABLE: self._asked(EnableAsk, self._enable_here),
                ha_wire.DISABLE: self._asked(DisableAsk, self._disable_here),
                ha_wire.REPLACE: self._asked(ReplaceAsk, self._replace_here),
            },
        )

    async def run(self) -> None:
        """End moves that were cut short, and look after the members, until cancelled."""
        while True:
            news = self._news
            pause_s = None
            if self._voter.home.phase == "moving" and self._jobs.is_idle:
                await self._settle()
                pause_s = _RETRY_S
            elif self._voter.generation and self._voter.home.kind != "sqlite":
                await self._care.step()
                pause_s = _TICK_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await news.wait()

    async def close(self) -> None:
        """Break off what is under way; the next start ends it. Idempotent."""
        await self._jobs.close()

    # --- what people ask for ----------------------------------------------------------------------------------------

    async def enable(self, voters: int, nodes: Sequence[str], external: bool) -> AsyncGenerator[Progress, None]:
        """Have the state on several nodes; steps, the last one "success".

        Raises: BadRequest, NodeNotFound, Conflict (who can't, and why), StateUnavailable, PeerError.
        """
        if not external and not 0 <= voters <= _MOST_VOTERS:
            raise BadRequest(f"1 to {_MOST_VOTERS} nodes hold the state, not {voters}")
        ask = EnableAsk(voters=voters, nodes=tuple(nodes), external=external)
        holder = self._replica.catalog.holder
        async with aclosing(self._at(holder, ha_wire.ENABLE, ask, self._enable_here)) as steps:
            async for step in steps:
                yield step

    async def disable(self, node: str) -> AsyncGenerator[Progress, None]:
        """Have the state on one node alone: that one, a host; "" = this one, or the first that answers.

        Raises: as enable().
        """
        catalog = self._replica.catalog
        self._check_spread(catalog)
        host = self._host_to_ask() if not node else catalog.node(node)
        if host.node_id not in catalog.home.hosts:
            names = ", ".join(one.name for one in catalog.hosts)
            raise Conflict(f"node {host.name} does not hold the cluster's state; those that do are {names}")
        async with aclosing(
            self._at(host, ha_wire.DISABLE, DisableAsk(node=host.node_id), self._disable_here)
        ) as steps:
            async for step in steps:
                yield step

    async def replace(self, old: str, new: str) -> AsyncGenerator[Progress, None]:
        """Have another node in the place of one; new: "" = one that is there, "-" = nobody. Raises: as enable()."""
        catalog = self._replica.catalog
        self._check_spread(catalog)
        left = catalog.node(old)
        host = self._host_to_ask(without=left.node_id)
        ask = ReplaceAsk(old=left.node_id, new=new)
        async with aclosing(self._at(host, ha_wire.REPLACE, ask, self._replace_here)) as steps:
            async for step in steps:
                yield step

    async def let_go(self, node_id: str) -> None:
        """A node is about to be removed: if it holds the state with others, one that is there takes its place.

        Raises: as enable().
        """
        home = self._voter.home
        if home.kind != "etcd" or node_id not in home.hosts:
            return
        new = "" if self._members.spare(node_id) else "-"
        async with aclosing(self.replace(node_id, new)) as steps:
            async for step in steps:
                _LOG.info("replacing a node that is removed", step=step.status)

    async def status(self) -> HomeView:
        """Where the state lives, and how those are that hold it. Raises: StoreError."""
        catalog, home = self._replica.catalog, self._voter.home
        nodes = [catalog.nodes[node_id] for node_id in home.hosts if node_id in catalog.nodes]
        reports = await self._calls.reports(nodes)
        last_ns = await self._backups.last_ns()
        return view(catalog, home, nodes, reports, last_ns, self._replica.lost_reason)

    def degraded(self) -> list[str]:
        """What of it does not work, in sentences; without asking anybody."""
        home, catalog = self._voter.home, self._replica.catalog
        told = [self._voter.trouble] if self._voter.trouble else []
        told += self._care.troubles
        if home.kind == "etcd":
            there = {self._me, *(node.node_id for node in self._alive())}
            away = [name_of(catalog, node_id) for node_id in home.hosts if node_id not in there]
            if away:
                names = ", ".join(name_of(catalog, node_id) for node_id in home.hosts)
                told.append(
                    f"the cluster's state is on etcd at {names}; {', '.join(away)} out of reach. A node that does not "
                    f"come back is replaced by `ollamamax cluster ha replace {away[0]}`"
                )
        return told

    async def backup(self) -> bytes:
        """The whole state now, as a file. Raises: StateUnavailable."""
        return self._backups.encode(await self._state.range("", linearizable=True))

    # --- where it is done -------------------------------------------------------------------------------------------

    async def _enable_here(self, ask: EnableAsk) -> AsyncGenerator[Progress, None]:
        async with aclosing(self._jobs.follow("the state is being spread", self._enable(ask))) as steps:
            async for step in steps:
                yield step

    async def _disable_here(self, ask: DisableAsk) -> AsyncGenerator[Progress, None]:
        async with aclosing(self._jobs.follow("the state is being moved here", self._disable())) as steps:
            async for step in steps:
                yield step

    async def _replace_here(self, ask: ReplaceAsk) -> AsyncGenerator[Progress, None]:
        work = self._members.replace(ask.old, ask.new)
        async with aclosing(self._jobs.follow("a node is being replaced", work)) as steps:
            async for step in steps:
                yield step

    async def _enable(self, ask: EnableAsk) -> AsyncGenerator[Progress, None]:
        catalog, home = self._replica.catalog, self._voter.home
        if home.kind != "sqlite" or home.phase != "steady":
            names = ", ".join(name_of(catalog, node_id) for node_id in home.hosts)
            raise Conflict(f"the cluster's state is on {home.kind} at {names} already ({home.phase})")
        require_level(catalog.nodes.values(), HOME_LEVEL)
        chosen = self._chosen(catalog, ask)
        yield Progress(f"looking at {_names(chosen)}")
        looks = await self._calls.look(chosen, ask.external)
        if ask.external and not ask.nodes:
            chosen = [node for node in chosen if node.node_id == self._me or not looks[node.node_id].trouble]
        wrong = [f"{node.name}: {looks[node.node_id].trouble}" for node in chosen if looks[node.node_id].trouble]
        if wrong:
            raise Conflict(f"the cluster's state can't be spread to {_names(chosen)}. {'; '.join(wrong)}")
        generation = home.generation + 1
        hosts = tuple(node.node_id for node in chosen)
        try:
            if not ask.external:
                async for step in self._start(chosen, generation):
                    yield step
            external = self._voter.place.external
            target = StateHome(
                kind="external" if ask.external else "etcd",
                hosts=hosts,
                endpoints=external.endpoints if ask.external and external is not None else (),
            )
            async for step in self._mover.move(target):
                yield step
        except OllamaMaxError:
            await self._settle()
            if self._voter.home.generation != generation or self._voter.home.kind == "sqlite":
                await self._calls.cancel(chosen, generation)
            raise
        yield _SUCCESS

    async def _start(self, chosen: Sequence[NodeRecord], generation: int) -> AsyncGenerator[Progress, None]:
        """Members on all of them, and the key with which they sign."""
        authority = self._keys.authority
        if authority is None:
            raise Conflict("this node lacks the key of the cluster's authority (ca.key), which all of them need")
        members = raft_addresses({node.node_id: self._find(node.node_id).addresses for node in chosen})
        for node in chosen:
            if not members[node.node_id]:
                raise Conflict(f"node {node.name} has no address of its own: set peer.advertise there")
        yield Progress(f"starting etcd on {_names(chosen)}")
        prepare = Prepare(
            generation=generation,
            seat=Seat(members=members, token=self._voter.new_token()),
            key=authority.export(),
            certificate=authority.certificate,
        )
        await self._calls.prepare(chosen, prepare)
        yield Progress("waiting until they have chosen a leader")
        await self._calls.ready(chosen, generation)

    async def _disable(self) -> AsyncGenerator[Progress, None]:
        yield Progress("moving the state to this node")
        try:
            async for step in self._mover.move(StateHome(kind="sqlite", hosts=(self._me,))):
                yield step
        except OllamaMaxError:
            await self._settle()
            raise
        yield _SUCCESS

    def _chosen(self, catalog: Catalog, ask: EnableAsk) -> list[NodeRecord]:
        """Raises: BadRequest, NodeNotFound, Conflict."""
        me = catalog.nodes[self._me]
        there = {node.node_id for node in self._alive()} | {self._me}
        if ask.nodes:
            chosen = list({node.node_id: node for node in map(catalog.node, ask.nodes)}.values())
            if self._me not in {node.node_id for node in chosen}:
                raise Conflict(
                    f"node {me.name} holds the cluster's state now, and has to be one of them; afterwards "
                    f"`ollamamax cluster ha replace {me.name} NODE` puts another one in its place"
                )
            gone = [node.name for node in chosen if node.node_id not in there]
            if gone:
                raise Conflict(
                    f"{', '.join(gone)} can't be reached now: all who are to hold the state have to be there"
                )
        else:
            chosen = [me, *(node for node in catalog.nodes.values() if node.node_id in there - {self._me})]
            if ask.external:
                return chosen
            if len(chosen) < ask.voters:
                raise Conflict(
                    f"{ask.voters} nodes are to hold the state, and only {len(chosen)} can be reached now "
                    f"({_names(chosen)}): let more machines join (`ollamamax token create`), or say --voters"
                )
            chosen = chosen[: ask.voters]
        if len(chosen) % 2 == 0 and not ask.external:
            raise BadRequest(
                f"an odd number of nodes holds the state, not {len(chosen)}: one more would survive no more"
            )
        return chosen

    # --- parts ------------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """A failure is logged: run() tries it again."""
        try:
            await self._mover.settle()
        except OllamaMaxError as error:
            _LOG.warning("a move of the cluster's state can't be ended yet", reason=str(error))

    def _check_spread(self, catalog: Catalog) -> None:
        """Raises: Conflict while one node alone holds the state."""
        if catalog.home.kind == "sqlite":
            name = catalog.holder.name if catalog.holder is not None else "one node"
            raise Conflict(f"{name} alone holds the cluster's state: `ollamamax cluster ha enable` spreads it")

    def _host_to_ask(self, without: str = "") -> NodeRecord:
        """Raises: StateUnavailable."""
        there = {node.node_id for node in self._alive()} | {self._me}
        hosts = [node for node in self._replica.catalog.hosts if node.node_id in there - {without}]
        if not hosts:
            raise StateUnavailable("none of the nodes that hold the cluster's state can be reached now")
        return min(hosts, key=lambda node: node.node_id != self._me)

    def _at(
        self,
        node: NodeRecord | None,
        method: str,
        ask: _T,
        here: Callable[[_T], AsyncGenerator[Progress, None]],
    ) -> AsyncGenerator[Progress, None]:
        """Its steps, wherever it is done. Raises: StateUnavailable, PeerError."""
        if node is None:
            raise StateUnavailable("it is not known yet which node holds the cluster's state")
        return here(ask) if node.node_id == self._me else self._passed_on(node, method, ask)

    async def _passed_on(self, node: NodeRecord, method: str, ask: object) -> AsyncGenerator[Progress, None]:
        body, before, told = join_wire.encode(ask), self._replica.catalog.home, 0
        try:
            async with aclosing(self._link.stream(self._find(node.node_id), method, body, idle_ms=_IDLE_MS)) as groups:
                async for group in groups:
                    for frame in group:
                        step = join_wire.answered(frame, Progress)
                        if step == _SUCCESS and told:
                            await self._catch_up(before)
                        told += 1
                        yield step
        except PeerError as error:
            raise StateUnavailable(
                f"node {node.name}, which does this, can't be heard any more ({error}); it may go on: "
                "`ollamamax cluster ha status` tells"
            ) from error

    async def _catch_up(self, before: StateHome) -> None:
        """Who asks this node next is to be told of what was done; unless it takes long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_S):
                while self._replica.catalog.home == before:
                    await self._news.wait()

    def _asked(
        self, kind: type[_T], here: Callable[[_T], AsyncGenerator[Progress, None]]
    ) -> Callable[[Caller, bytes], AsyncGenerator[list[bytes], None]]:
        async def answer(caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
            async with aclosing(here(join_wire.asked(body, kind))) as steps:
                async for step in steps:
                    yield [join_wire.encode(step)]

        return answer

    def _on_catalog(self, old: Catalog, new: Catalog) -> None:
        if old.home != new.home:
            self._voter.wake()
            self._news.set()
            self._news = asyncio.Event()


def _names(nodes: Sequence[NodeRecord]) -> str:
    return ", ".join(node.name for node in nodes)
