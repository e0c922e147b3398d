"""The engines that there are, and what is known of them at this moment. Nothing here asks anybody anything."""

from collections.abc import Iterable
from itertools import chain

from ollamamax.core.resilience.breaker import BreakerConfig, State
from ollamamax.core.types import EngineFacts, EngineModel, FleetSnapshot
from ollamamax.ports import Clock
from ollamamax.services.members import LOCAL, EngineStatus, LocalMember, Member
from ollamamax.services.model_index import ModelIndex


class Roster:
    """Members by id, this node's own apart from other nodes', and an index of their models: the Fleet's lower half."""

    def __init__(self, local: LocalMember, clock: Clock) -> None:
        self._clock = clock
        self._members: dict[str, Member] = {LOCAL: local}
        """This node's: its local engine, and those attached to it."""
        self._peers: dict[str, Member] = {}
        """Other nodes'."""
        self._index = ModelIndex()

    def _all(self) -> Iterable[Member]:
        """This node's own first."""
        return chain(self._members.values(), self._peers.values())

    def _attached(self) -> list[Member]:
        return [member for member in self._members.values() if member.attached is not None]

    def _put(self, member: Member) -> None:
        """One more."""
        members = self._peers if member.node_id else self._members
        assert member.engine_id not in members, "an id is given to one engine at a time"
        members[member.engine_id] = member
        self._index.update(member)

    def _take_out(self, member: Member) -> None:
        """It counts no more."""
        members = self._peers if member.node_id else self._members
        del members[member.engine_id]
        self._index.drop(member)

    def add_peer(self, member: Member) -> None:
        """One more of another node, under an id that nobody has. `changed` is to follow."""
        assert member.node_id, "this node's own engines are attached"
        self._put(member)

    def peer_offers(self, member: Member) -> None:
        """What it offers may have changed. `changed` is to follow."""
        self._index.update(member)

    def _limit_breakers(self, config: BreakerConfig) -> None:
        """Those that there are go by other limits from now on."""
        for member in self._all():
            for breaker in member.breakers.values():
                breaker.reconfigure(config)

    def snapshot(self) -> FleetSnapshot:
        """All facts at this moment."""
        return self._facts_of(self._all())

    def snapshot_of(self, key: str) -> FleetSnapshot:
        """The facts of the engines that offer the model. Cheap: made for each request."""
        return self._facts_of(self._index.having(key))

    def stores(self) -> tuple[EngineFacts, ...]:
        """The facts of each node's own engines, which stand over a store of models."""
        return self._facts_of(member for member in self._all() if member.is_pool).engines

    def _facts_of(self, members: Iterable[Member]) -> FleetSnapshot:
        now_ms = self._clock.now_ms()
        return FleetSnapshot(now_ms, tuple([member.facts(now_ms) for member in members]))

    def held_back(self, key: str) -> dict[str, str]:
        """Engines whose breaker lets no request for the model through now, each with the reason."""
        out = {}
        for member in self._index.having(key):
            breaker = member.breakers.get(key)
            if breaker is not None and not breaker.allows(self._clock.now_ms()):
                out[member.engine_id] = (
                    "is tried by one request first, after failures"
                    if breaker.state is State.HALF_OPEN
                    else f"is left out for a while after {breaker.failures} failures"
                )
        return out

    def statuses(self) -> list[EngineStatus]:
        """Each engine for people, the local one first; without API keys."""
        now_ms = self._clock.now_ms()
        return [member.status(now_ms) for member in self._all()]

    def own_engines(self) -> list[Member]:
        """Those of this node and those attached to it, the local one first."""
        return list(self._members.values())

    def find(self, key: str) -> tuple[Member, EngineModel] | None:
        """The first reachable engine that offers the model, the local one first."""
        return next(iter(self.offers(key)), None)

    def offers(self, key: str) -> list[tuple[Member, EngineModel]]:
        """All reachable engines that offer the model, the local one first, other nodes' last."""
        members = [member for member in self._index.having(key) if member.reachable]
        members.sort(key=lambda member: (member.engine_id != LOCAL, member.node_id))
        return [(member, member.offers()[key]) for member in members]

    def check_invariants(self) -> None:
        """Each member's accounts add up, and the index is that of the members. Raises: AssertionError."""
        self._index.check_invariants()
        for member in self._all():
            member.check_invariants()
            assert all(member in self._index.having(key) for key in member.models), "who offers a model is found"
