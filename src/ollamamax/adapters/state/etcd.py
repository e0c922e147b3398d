"""All that a node can do with etcd, from one place."""

from ollamamax.adapters.state.etcd_members import Members
from ollamamax.adapters.state.etcd_process import Child
from ollamamax.adapters.state.etcd_program import find
from ollamamax.adapters.state.etcd_state import EtcdState
from ollamamax.core.types import EtcdAccess, EtcdProgram, EtcdSpec


class LocalEtcd:
    """An Etcd. path: of the program, "" = the first one on PATH."""

    def __init__(self, path: str = "") -> None:
        self._path = path

    async def program(self) -> EtcdProgram:
        """The one on this machine. Raises: Unsupported, which says what to do."""
        return await find(self._path)

    async def start(self, spec: EtcdSpec) -> Child:
        """Run a member. Raises: Unsupported, StoreError."""
        return await Child.start(await find(self._path), spec)

    async def members(self, access: EtcdAccess) -> Members:
        """To look after it."""
        return await Members.open(access)

    async def store(self, access: EtcdAccess, cluster_id: str) -> EtcdState:
        """The state of a cluster, kept there."""
        return await EtcdState.open(access, cluster_id)
