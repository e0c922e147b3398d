"""What the members of etcd need now and then: room in their files, and copies of the state for the worst case."""

from collections.abc import Callable
from typing import Final

import structlog

from ollamamax.core.errors import OllamaMaxError, StateUnavailable
from ollamamax.core.types import ClusterEvent, EtcdStatus
from ollamamax.core.types.etcd import ETCD_KEEP_REVISIONS
from ollamamax.ports import Backups, Clock, EtcdMembers
from ollamamax.services.replica import Replica
from ollamamax.services.voter import Voter

_LOG: Final = structlog.get_logger(__name__)
_BACKUP_NS: Final = 3_600 * 10**9
_LARGE_BYTES: Final = 64 << 20
_SLOT_NS: Final = 600 * 10**9
"""The members take turns of ten minutes: one that writes its file anew answers nobody meanwhile."""
_NO_SPACE: Final = "NOSPACE"


class Care:
    """step() about once a minute, on a node that hosts the state. on_event: for people."""

    def __init__(
        self,
        voter: Voter,
        replica: Replica,
        backups: Backups,
        on_event: Callable[[ClusterEvent], None],
        clock: Clock,
    ) -> None:
        self._voter = voter
        self._replica = replica
        self._backups = backups
        self._on_event = on_event
        self._clock = clock
        self.troubles: list[str] = []
        """What could not be done, in sentences."""

    async def step(self) -> None:
        """Do what is due; what can't be done is tried at the next one."""
        self.troubles = []
        try:
            await self._copy()
            if self._voter.home.kind == "etcd":
                members = await self._voter.members()
                try:
                    await self._make_room(members)
                finally:
                    await members.close()
        except StateUnavailable as error:  # of that others tell
            _LOG.debug("the members can't be looked after now", reason=str(error))
        except OllamaMaxError as error:
            self.troubles = [f"what holds the cluster's state can't be looked after: {error}"]

    async def _copy(self) -> None:
        """Raises: DiskFull, StoreError."""
        now_ns = self._clock.wall_ns()
        if self._replica.lost_since_ms is None and abs(now_ns - await self._backups.last_ns()) >= _BACKUP_NS:
            await self._backups.add(self._replica.catalog.entries(), now_ns)

    async def _make_room(self, members: EtcdMembers) -> None:
        status = await members.status()
        alarms = [alarm for alarm in await members.alarms() if alarm.kind == _NO_SPACE]
        if any(alarm.member_id == status.member_id for alarm in alarms):
            self.troubles = ["etcd's file on this node has reached its quota; room is being made"]
            self._tell("state_full", "etcd's file has reached its quota: making room")
            await members.compact(ETCD_KEEP_REVISIONS)
            await members.defragment()
            await members.disarm()
            self._tell("state_room", "etcd takes changes again")
        elif is_wasteful(status) and self._is_its_turn():
            await members.defragment()
            _LOG.info("etcd's file was written anew", former_bytes=status.db_bytes)

    def _is_its_turn(self) -> bool:
        hosts = self._voter.home.hosts
        turn = self._clock.wall_ns() // _SLOT_NS % len(hosts)
        return hosts[turn] == self._voter.place.node_id

    def _tell(self, kind: str, text: str) -> None:
        name = self._replica.catalog.nodes[self._voter.place.node_id].name
        self._on_event(ClusterEvent(at_ns=self._clock.wall_ns(), kind=kind, node=name, text=f"{name}: {text}"))


def is_wasteful(status: EtcdStatus) -> bool:
    """Whether writing its file anew is worth while."""
    return status.db_bytes > _LARGE_BYTES and status.db_used_bytes * 2 < status.db_bytes
