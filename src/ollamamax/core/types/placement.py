"""Where models ought to run, as the cluster agreed: what people asked for, and what was decided from it.

A model is named by its short name with its tag (ModelEntry.name); keys are its ModelName.key.
"""

from msgspec import Struct


class Placement(Struct, frozen=True, kw_only=True):
    """What somebody asked for. replicas: how many are kept loaded, 0 = none.  pins: node ids that each run one.

    labels: a node needs all of them.  max_replicas: as many there may be while requests wait; never below `replicas`.
    idle_ms: an extra replica that was idle for so long goes.
    """

    name: str
    replicas: int
    changed_ns: int
    pins: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    max_replicas: int = 0
    idle_ms: int = 300_000


class Assignment(Struct, frozen=True, kw_only=True):
    """What was decided. nodes: node id -> replicas there, sorted by id.  missing: replicas that no node can hold.

    why: a line for people about each node taken and the nearest ones refused.
    """

    name: str
    nodes: dict[str, int]
    decided_ns: int
    missing: int = 0
    why: tuple[str, ...] = ()


class Drain(Struct, frozen=True, kw_only=True):
    """A node is being emptied. deadline_ns: 0 = it may take as long as it takes.

    on_timeout: what happens to work that is left then: "stop" ends it, "keep" lets it end by itself.
    """

    node_id: str
    since_ns: int
    deadline_ns: int = 0
    on_timeout: str = "stop"


class ClusterSettings(Struct, frozen=True, kw_only=True):
    """One version of the settings that all share. version: from 1, without gaps; 0 = nothing was ever set.

    values: setting -> its value as text.  node_values: node id -> the same, for that node alone, and before `values`.
    change: what this version changed, for people.  by: who.
    """

    version: int = 0
    values: dict[str, str] = {}
    node_values: dict[str, dict[str, str]] = {}
    changed_ns: int = 0
    by: str = ""
    change: str = ""


class StateHome(Struct, frozen=True, kw_only=True):
    """Where the state lives. kind: "sqlite" (with the holder), "etcd" (run by the cluster), "external" (run by others).

    hosts: node ids through which the others reach it.  phase: "steady", or "moving" while it is copied elsewhere:
    then nothing is written.  generation: raised by every move, an undone one too.  endpoints: of an external etcd,
    host:port.  mover, target: while it is moved: by which node, and the home to be.
    """

    kind: str = "sqlite"
    hosts: tuple[str, ...] = ()
    phase: str = "steady"
    generation: int = 0
    endpoints: tuple[str, ...] = ()
    mover: str = ""
    target: "StateHome | None" = None
