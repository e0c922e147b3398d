"""How etcd is started: its command line, and an environment that holds no settings of somebody else's etcd."""

import os
from typing import Final

from ollamamax.core.types import EtcdProgram, EtcdSpec
from ollamamax.core.types.etcd import ETCD_TXN_PARTS

_SNAPSHOT_COUNT: Final = 10_000


def arguments(program: EtcdProgram, spec: EtcdSpec, *, is_first: bool) -> list[str]:
    """is_first: since this node began to run it; only then a cluster of one is made of what is left of one."""
    scheme = "https" if spec.ca else "http"
    everyone = ",".join(
        f"{name}={scheme}://{address}" for name, addresses in sorted(spec.members.items()) for address in addresses
    )
    flags = {
        "name": spec.name,
        "data-dir": spec.data_dir,
        "listen-client-urls": f"{scheme}://{spec.client_listen}",
        "advertise-client-urls": f"{scheme}://{spec.client_listen}",
        "listen-peer-urls": f"{scheme}://{spec.peer_listen}",
        "initial-advertise-peer-urls": ",".join(f"{scheme}://{address}" for address in spec.peer_addresses),
        "initial-cluster": everyone,
        "initial-cluster-state": "existing" if spec.is_joining else "new",
        "initial-cluster-token": spec.token,
        "heartbeat-interval": spec.heartbeat_ms,
        "election-timeout": spec.election_ms,
        "pre-vote": "true",  # who was cut off does not unseat a leader when he comes back
        "snapshot-count": _SNAPSHOT_COUNT,
        "quota-backend-bytes": spec.quota_bytes,
        "max-txn-ops": ETCD_TXN_PARTS,
        "auto-compaction-mode": "revision",
        "auto-compaction-retention": spec.keep_revisions,
        "enable-grpc-gateway": "false",
        "logger": "zap",
        "log-outputs": "stderr",
        "log-level": "info",
        **_tls(spec),
    }
    if spec.force_new and is_first:
        flags["force-new-cluster"] = "true"
    return [program.path, *(f"--{flag}={value}" for flag, value in flags.items())]


def environment() -> dict[str, str]:
    """Ours, without ETCD_* variables; those would be flags.

    Members come from any of their machine's addresses. Who they are their certificates' common name says, so these need
    not name the address that a connection comes from (an option since 3.4; as a variable it harms no version).
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
    return {**ours, "ETCD_EXPERIMENTAL_PEER_SKIP_CLIENT_SAN_VERIFICATION": "true"}


def _tls(spec: EtcdSpec) -> dict[str, str]:
    if not spec.ca:
        return {}
    flags = {
        "cert-file": spec.certificate,
        "key-file": spec.key,
        "trusted-ca-file": spec.ca,
        "client-cert-auth": "true",
        "peer-cert-file": spec.certificate,
        "peer-key-file": spec.key,
        "peer-trusted-ca-file": spec.ca,
        "peer-client-cert-auth": "true",
    }
    if spec.peer_name:
        flags["peer-cert-allowed-cn"] = spec.peer_name
    return flags
