"""What people see of the state's home: where it lives, and how those who hold it are."""

from msgspec import Struct

from ollamamax.core.types.etcd import EtcdStatus


class Seat(Struct, frozen=True, kw_only=True):
    """What a node remembers of a member of etcd that it runs. members, token: as of EtcdSpec; the token is another
    one for each try.  is_joining: it joined others.

    was_started: it has data; without them it must not be started again, for it would vote as if it knew nothing.
    """

    members: dict[str, tuple[str, ...]]
    token: str = ""
    is_joining: bool = False
    was_started: bool = False


class HostView(Struct, frozen=True, kw_only=True):
    """A node that holds the state. etcd: "" without one of its own, else its version.  raft_index: how far it is.

    lag: raft entries behind the furthest.  trouble: what is wrong with it, for people; "" = nothing.
    """

    name: str
    node_id: str
    reachable: bool = False
    etcd: str = ""
    is_leader: bool = False
    is_learner: bool = False
    db_bytes: int = 0
    db_used_bytes: int = 0
    raft_index: int = 0
    lag: int = 0
    restarts: int = 0
    trouble: str = ""


class HomeView(Struct, frozen=True, kw_only=True):
    """Where the state lives. kind, phase, generation, endpoints: as of StateHome.  mover: the node's name.

    survives: so many of the hosts may be lost, and it still takes changes.  last_backup_ns: of the hourly copies on
    the node that was asked, 0 = none.  trouble: all of it, in sentences.
    """

    kind: str
    phase: str
    generation: int
    hosts: tuple[HostView, ...] = ()
    endpoints: tuple[str, ...] = ()
    mover: str = ""
    survives: int = 0
    last_backup_ns: int = 0
    trouble: tuple[str, ...] = ()


class MemberReport(Struct, frozen=True, kw_only=True):
    """What a node tells of its own member of etcd. status: None while it does not answer."""

    status: EtcdStatus | None = None
    restarts: int = 0
    trouble: str = ""
