"""etcd, as far as the cluster starts it, reaches it and looks after it. Paths are absolute."""

from typing import Final

from msgspec import Struct

ETCD_MIN: Final = (3, 4, 0)
ETCD_REFUSED: Final = ((3, 5, 0), (3, 5, 1), (3, 5, 2))
"""Releases that can corrupt their data when they are killed (etcd's issue 13766)."""
ETCD_QUOTA_BYTES: Final = 2 << 30
ETCD_KEEP_REVISIONS: Final = 10_000
ETCD_TXN_PARTS: Final = 512
"""What `--max-txn-ops` has to be: a transaction of ours has up to 257 parts; etcd's own default is 128."""


class EtcdAccess(Struct, frozen=True, kw_only=True):
    """How an etcd is reached. endpoints: host:port or [v6]:port, tried in turn.

    ca, certificate, key: PEM files, read anew for each new connection; ca "" = without TLS (loopback only, please).
    server_name: what its certificate has to be for; "" = the endpoint's host.
    """

    endpoints: tuple[str, ...]
    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""


class EtcdSpec(Struct, frozen=True, kw_only=True):
    """One member to run. name: of the member (the node's id).  data_dir: its own; made with mode 0700.

    client_listen: host:port for clients, on loopback.  peer_listen: host:port for the other members, where this one
    listens.  peer_addresses: host:port where the others reach it.
    members: name -> peer addresses of all members that it starts with, itself among them.  is_joining: it joins members
    that run; else it founds them.  token: what tells this cluster from others (its id).
    ca, certificate, key: PEM files for both listeners; etcd reads certificate and key anew at each handshake.
    ca "" = no TLS at all.  peer_name: the only common name that other members' certificates may have, "" = any.
    keep_revisions: how far back watches may begin, at least; etcd forgets older ones every five minutes.
    force_new: start from the data of a member whose cluster has lost its majority for good, as a cluster of one.
    """

    name: str
    data_dir: str
    client_listen: str
    peer_listen: str
    peer_addresses: tuple[str, ...]
    members: dict[str, tuple[str, ...]]
    token: str
    is_joining: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""
    peer_name: str = ""
    quota_bytes: int = ETCD_QUOTA_BYTES
    keep_revisions: int = ETCD_KEEP_REVISIONS
    heartbeat_ms: int = 100
    election_ms: int = 1_000
    force_new: bool = False


class EtcdProgram(Struct, frozen=True):
    """An etcd that can be started. version: e.g. "3.4.23"."""

    path: str
    version: str


class EtcdMember(Struct, frozen=True, kw_only=True):
    """One member, as the cluster of etcds knows it. name: "" until it started once.  is_learner: has no vote yet."""

    member_id: int
    name: str
    peer_addresses: tuple[str, ...]
    is_learner: bool = False


class EtcdStatus(Struct, frozen=True, kw_only=True):
    """What the member at an endpoint tells. leader_id: 0 = none.  db_bytes: its file; db_used_bytes: of that in use.

    revision: etcd's own.  errors: e.g. alarms, as etcd words them.
    """

    member_id: int
    version: str
    leader_id: int
    revision: int
    raft_term: int
    raft_index: int
    db_bytes: int
    db_used_bytes: int
    is_learner: bool = False
    errors: tuple[str, ...] = ()


class EtcdAlarm(Struct, frozen=True):
    """A member that refuses work. kind: "NOSPACE" or "CORRUPT"."""

    member_id: int
    kind: str
