"""The section `peer`, and how --peer-listen becomes settings of it."""

from typing import Any

from pydantic import SecretStr

from ollamamax.core.errors import SettingsError
from ollamamax.settings.knobs import Addresses, Amount, ClusterName, Count, NodeName, PeerHost, Section, knob
from ollamamax.settings.values import DEFAULT_PEER_PORT, OFF, parse_peer_listen


class Peer(Section):
    """The cluster: where other nodes reach this one, and how they find each other. See [cluster.md](cluster.md)."""

    host: PeerHost = knob(
        "",
        "Address that the listener for other nodes binds to; empty: every interface; off: the node stays alone.",
        why="Others must reach it; and without a certificate of the cluster nobody gets in.",
        flag="--peer-listen",
        default_text="(every interface)",
    )
    port: Count = knob(
        DEFAULT_PEER_PORT,
        "Its TCP port; the next one is membership's, and two more are etcd's where it runs. 0 picks four free ones.",
        why="Next to Ollama's port, and fixed, so that firewalls can be told.",
        flag="--peer-listen",
        ge=0,
        le=65534,
    )
    advertise: Addresses = knob(
        (),
        "Addresses (host:port) where other nodes find the peer listener, best first; comma-separated.",
        why="Behind NAT or a forwarded port only an operator knows them.",
        default_text="this machine's addresses on the networks that it listens to",
    )
    seeds: Addresses = knob(
        (),
        "Addresses (host:port) of nodes to ask first who is in the cluster; comma-separated.",
        why="For places without multicast, where every address that a node remembers may have changed.",
    )
    multicast: bool = knob(
        True,
        "Look for other nodes by multicast on the LAN, and let `ollamamax discover` find this one.",
        why="Nodes find each other again when addresses change; it tells only that a cluster is here.",
    )
    node_name: NodeName = knob(
        "",
        "Name of this node in the cluster that it founds or joins: a-z, 0-9 and -.",
        why="People know their machines by name.",
        flag="--name",
        default_text="the host name",
    )
    cluster_name: ClusterName = knob(
        "ollamamax",
        "Name of the cluster that this node founds at its first start: up to 63 characters.",
        why="It only tells clusters apart for people; nodes go by the cluster's id.",
    )
    ca_passphrase: SecretStr = knob(
        SecretStr(""),
        "Encrypts the key of the cluster's authority on the founder's disk; empty: only the file's mode protects it.",
        why="With that key anyone could make certificates; with a passphrase a stolen disk is not enough.",
    )
    lease_s: Amount = knob(
        4.0,
        "Silence after which a node is suspected to be gone, and asked directly.",
        unit="seconds",
        why="Silent machines are out of the routing within 5 s; less costs CPU, and would suspect busy ones.",
        ge=1,
        le=60,
    )

    @property
    def is_on(self) -> bool:
        """Whether this node takes part in a cluster."""
        return self.host != OFF


def peer_listen(text: str | None) -> dict[str, Any]:
    """The settings that the flag --peer-listen stands for: HOST:PORT, :PORT, HOST or "off"; None: not given.

    Raises: SettingsError.
    """
    if text is None:
        return {}
    try:
        host, port = parse_peer_listen(text)
    except ValueError as error:
        raise SettingsError(f"--peer-listen {text}: {error}") from None
    return {"peer.host": host, "peer.port": port}
