"""This node's own lines in the cluster's state: where it is found, which program it runs, and which process is it.

A node id is one process at a time. Who starts asks first at the addresses that the state names: whoever answers there
as this node has the same identity. While it runs it holds `instances/<node id>` under a lease.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from ollamamax.core.catalog.commands import SetAddresses, SetInstance
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.errors import LeaseNotFound, NodeConflict, NotFound, OllamaMaxError, PeerError
from ollamamax.ports import PeerLink, StateStore
from ollamamax.services.control import Control
from ollamamax.services.node_host import PING, decode_pong
from ollamamax.services.replica import Replica

_LOG: Final = structlog.get_logger(__name__)
LEASE_MS: Final = 60_000
_LOOK_S: Final = 5.0
_RENEW_LOOKS: Final = 4
"""The lease is renewed at every fourth look: a third of its time."""
_PING_MS: Final = 1_000.0


class Standing:
    """addresses: where this node's peer listener is found at this moment, best first.  instance: of this process."""

    def __init__(
        self,
        node_id: str,
        instance: str,
        version: str,
        addresses: Callable[[], tuple[str, ...]],
        store: StateStore,
        replica: Replica,
        control: Control,
        link: PeerLink,
    ) -> None:
        self._node_id = node_id
        self._instance = instance
        self._version = version
        self._addresses = addresses
        self._store = store
        self._replica = replica
        self._control = control
        self._link = link
        self._lease_id = 0

    async def require_sole(self) -> None:
        """Before this node listens. Raises: NodeConflict if another process is this node."""
        record = self._replica.catalog.nodes.get(self._node_id)
        if record is None:
            return
        try:
            pong = decode_pong(await self._link.call(record, PING, b"", timeout_ms=_PING_MS))
        except OllamaMaxError:
            return
        if pong.instance != self._instance:
            raise NodeConflict(
                f"another process runs as node '{record.name}' ({self._node_id}) at {', '.join(record.addresses)}: one "
                "identity serves one node. If this home is a copy, move its directory `cluster` away and join with a "
                "token of its own (`ollamamax join TOKEN`)"
            )

    async def run(self) -> None:
        """Keep the lines true, until cancelled. While the state can't be written they are as they are."""
        looks = 0
        while True:
            try:
                await self._look(renew=looks % _RENEW_LOOKS == 0)
            except (OllamaMaxError, PeerError) as error:
                _LOG.debug("the cluster's state does not know of this node's present yet", reason=str(error))
            looks += 1
            await asyncio.sleep(_LOOK_S)

    async def _look(self, renew: bool) -> None:
        """Raises: StateUnavailable, StateError."""
        catalog = self._replica.catalog
        record = catalog.nodes.get(self._node_id)
        if record is None or self._replica.lost_since_ms is not None:
            return
        addresses = self._addresses()
        if (record.addresses, record.version, record.level) != (addresses, self._version, LEVEL):
            await self._control.run(SetAddresses(self._node_id, addresses, self._version, LEVEL))
        if renew:
            await self._hold()

    async def _hold(self) -> None:
        if self._lease_id and await self._renewed():
            return
        self._lease_id = 0
        lease_id = await self._store.grant_lease(LEASE_MS)
        before = self._replica.catalog.instances.get(self._node_id, "")
        await self._control.run(SetInstance(self._node_id, self._instance, lease_id, before))
        self._lease_id = lease_id

    async def _renewed(self) -> bool:
        """Whether this process is still the node's."""
        try:
            await self._store.renew_lease(self._lease_id)
        except (LeaseNotFound, NotFound):
            return False
        holder = self._replica.catalog.instances.get(self._node_id)
        if holder not in (None, self._instance):
            _LOG.error("another process has taken this node's identity", node_id=self._node_id)
        return True

    async def close(self) -> None:
        """Give the lease back, so that the next process starts at once. Failures don't matter: it ends by itself."""
        if not self._lease_id:
            return
        try:
            await self._store.revoke_lease(self._lease_id)
        except OllamaMaxError as error:
            _LOG.debug("the lease was not given back", reason=str(error))
