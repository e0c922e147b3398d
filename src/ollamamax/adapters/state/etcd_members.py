"""Looks after the members of an etcd: who they are, how they are, and room in their files."""

from typing import Any, Final, Self

from ollamamax.adapters.state.etcd_client import EtcdClient
from ollamamax.core.errors import NotFound, StateCompacted
from ollamamax.core.types import EtcdAccess, EtcdAlarm, EtcdMember, EtcdStatus

_SLOW_MS: Final = 60_000.0
"""For defragmenting, which writes the whole file anew."""


class Members:
    """EtcdMembers. Made by open()."""

    def __init__(self, client: EtcdClient, has_tls: bool) -> None:
        self._client = client
        self._scheme = "https://" if has_tls else "http://"

    @classmethod
    async def open(cls, access: EtcdAccess) -> Self:
        """Nothing is asked yet. Raises: StateError if there is no endpoint."""
        return cls(await EtcdClient.open(access), bool(access.ca))

    async def members(self) -> tuple[EtcdMember, ...]:
        """All of them, learners too, as the member that answers knows them."""
        answer = await self._ask("Cluster", "MemberList", self._client.pb.MemberListRequest(), may_repeat=True)
        return tuple(sorted((_member(one) for one in answer.members), key=lambda member: member.member_id))

    async def add_learner(self, peer_addresses: tuple[str, ...]) -> EtcdMember:
        """Let one in without a vote. Raises: Conflict if one of its addresses is a member's."""
        request = self._client.pb.MemberAddRequest(peerURLs=self._urls(peer_addresses), isLearner=True)
        return _member((await self._ask("Cluster", "MemberAdd", request)).member)

    async def promote(self, member_id: int) -> None:
        """Give a learner its vote. Raises: StateUnavailable while it has not caught up; NotFound; Conflict."""
        await self._ask("Cluster", "MemberPromote", self._client.pb.MemberPromoteRequest(ID=member_id))

    async def remove(self, member_id: int) -> None:
        """Let one go; nothing happens if it is none."""
        try:
            await self._ask("Cluster", "MemberRemove", self._client.pb.MemberRemoveRequest(ID=member_id))
        except NotFound:
            return

    async def update(self, member_id: int, peer_addresses: tuple[str, ...]) -> None:
        """It is reached elsewhere. Raises: NotFound, Conflict."""
        request = self._client.pb.MemberUpdateRequest(ID=member_id, peerURLs=self._urls(peer_addresses))
        await self._ask("Cluster", "MemberUpdate", request, may_repeat=True)

    async def status(self) -> EtcdStatus:
        """Of the member that answers first."""
        told = await self._ask("Maintenance", "Status", self._client.pb.StatusRequest(), may_repeat=True)
        return EtcdStatus(
            member_id=told.header.member_id,
            version=told.version,
            leader_id=told.leader,
            revision=told.header.revision,
            raft_term=told.raftTerm,
            raft_index=told.raftIndex,
            db_bytes=told.dbSize,
            db_used_bytes=told.dbSizeInUse,
            is_learner=told.isLearner,
            errors=tuple(told.errors),
        )

    async def move_leader(self, member_id: int) -> None:
        """Make a voter the leader. Raises: StateError if the member asked is not the leader itself."""
        request = self._client.pb.MoveLeaderRequest(targetID=member_id)
        await self._ask("Maintenance", "MoveLeader", request, may_repeat=True)

    async def alarms(self) -> tuple[EtcdAlarm, ...]:
        """Members that refuse work."""
        pb = self._client.pb
        answer = await self._ask("Maintenance", "Alarm", pb.AlarmRequest(action=pb.AlarmRequest.GET), may_repeat=True)
        return tuple(EtcdAlarm(one.memberID, pb.AlarmType.Name(one.alarm)) for one in answer.alarms)

    async def disarm(self) -> None:
        """End all NOSPACE alarms."""
        pb = self._client.pb
        for alarm in await self.alarms():
            if alarm.kind == "NOSPACE":
                request = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=alarm.member_id, alarm=pb.NOSPACE)
                await self._ask("Maintenance", "Alarm", request, may_repeat=True)

    async def compact(self, keep_revisions: int) -> None:
        """Forget older history; room in the files is made when it returns."""
        revision = (await self.status()).revision - keep_revisions
        if revision > 0:
            request = self._client.pb.CompactionRequest(revision=revision, physical=True)
            try:
                await self._ask("KV", "Compact", request, may_repeat=True, limit_ms=_SLOW_MS)
            except StateCompacted:  # it was done before
                return

    async def defragment(self) -> None:
        """Write the answering member's file anew without unused pages."""
        request = self._client.pb.DefragmentRequest()
        await self._ask("Maintenance", "Defragment", request, may_repeat=True, limit_ms=_SLOW_MS)

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        await self._client.close()

    async def _ask(
        self, stub: str, method: str, request: Any, *, may_repeat: bool = False, limit_ms: float = 0.0
    ) -> Any:
        """By a member that has no leader, too: what it tells of itself is wanted then most of all."""
        return await self._client.call(
            stub, method, request, may_repeat=may_repeat, needs_leader=False, limit_ms=limit_ms
        )

    def _urls(self, addresses: tuple[str, ...]) -> list[str]:
        return [self._scheme + address for address in addresses]


def _member(told: Any) -> EtcdMember:
    addresses = tuple(url.partition("://")[2] for url in told.peerURLs)
    return EtcdMember(member_id=told.ID, name=told.name, peer_addresses=addresses, is_learner=told.isLearner)
