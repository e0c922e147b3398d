"""What the parts of a node know of each other."""

from collections.abc import Callable

from msgspec import Struct

from ollamamax.ports import BlobStore, MachineProbe
from ollamamax.services.agent import LocalAgent
from ollamamax.services.fleet import Fleet
from ollamamax.services.gateway import Gateway
from ollamamax.services.library import Library


class NodeParts(Struct, frozen=True, kw_only=True):
    """What the rest of the node is made of. is_draining: whether it takes no new requests."""

    agent: LocalAgent
    fleet: Fleet
    gateway: Gateway
    library: Library
    store: BlobStore
    machine: MachineProbe
    is_draining: Callable[[], bool]
