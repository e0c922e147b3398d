"""What a plan is made from, beside what people asked for."""

from enum import Enum

from msgspec import Struct


class Availability(Enum):
    """What a node is there for. The caller decides, also how long a node must be silent to count as gone.

    open: takes replicas.  cordoned: keeps those that it has, takes no new ones.  draining: its replicas leave, each
    when those elsewhere are ready.  drained: they leave at once, as the time for the other way is up.  gone: it runs
    nothing that anybody could use.
    """

    OPEN = "open"
    CORDONED = "cordoned"
    DRAINING = "draining"
    DRAINED = "drained"
    GONE = "gone"


class NodeCapacity(Struct, frozen=True, kw_only=True):
    """A member, as a place for models.

    total_bytes: memory for models, whether taken or free.  has: keys of the models whose files lie there.
    ready: model key -> replicas there that answer requests now, whoever had them loaded.  load: of its engines, 0 =
    idle to 1 = all slots taken.  gone_since_ns: 0 unless it is gone.
    """

    node_id: str
    name: str
    total_bytes: int
    labels: dict[str, str] = {}
    has: frozenset[str] = frozenset()
    ready: dict[str, int] = {}
    load: float = 0.0
    availability: Availability = Availability.OPEN
    gone_since_ns: int = 0


class ModelNeed(Struct, frozen=True, kw_only=True):
    """A model that the cluster has. replica_bytes: of memory for one replica.  disk_bytes: of its files."""

    key: str
    name: str
    replica_bytes: int
    disk_bytes: int
