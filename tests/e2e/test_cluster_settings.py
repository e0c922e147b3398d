"""Settings of a node's part in its cluster, and that they act."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import Cluster, cli, cli_json, on_loopback, see_each_other, states
from hosts import Hosts, Lan, lan_or_skip
from nodes import Node, eventually

from free_ports import free_port

A_WHILE_S = 6.0
"""Longer than the lease, within which others are found or missed."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = on_loopback(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    lan: Lan = lan_or_skip()
    made = Hosts(lan, tmp_path)
    yield made
    made.stop()
    lan.close()


def stays(what: str, condition: Callable[[], bool]) -> None:
    """It holds for a while. Slowness makes it hold for longer."""
    end = time.monotonic() + A_WHILE_S
    while time.monotonic() < end:
        assert condition(), what
        time.sleep(0.2)


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def addresses(node: Node) -> list[str]:
    found: list[str] = cli_json(node, "node", "show", "n1")["addresses"]
    return found


def test_the_peer_listener_is_where_it_was_told_to_be(cluster: Cluster) -> None:
    first = cluster.new("n1")
    first.environment["OLLAMAMAX_PEER__HOST"] = "127.0.0.2"
    first.start()
    port = int(first.environment["OLLAMAMAX_PEER__PORT"])
    assert addresses(first) == [f"127.0.0.2:{port}"]
    assert listens("127.0.0.2", port)
    assert not listens("127.0.0.1", port)
    eventually("the mesh is heard at the port after it", lambda: listens("127.0.0.2", port + 1))


def test_the_cluster_is_called_as_it_was_founded(cluster: Cluster) -> None:
    first = cluster.new("n1")
    first.environment["OLLAMAMAX_PEER__CLUSTER_NAME"] = "Our house"
    first.start()
    assert cli_json(first, "cluster", "status")["name"] == "Our house"
    assert "Our house" in cli(first, "cluster", "status").stdout
    first.stop()
    first.environment["OLLAMAMAX_PEER__CLUSTER_NAME"] = "Another house"
    first.start()
    assert cli_json(first, "cluster", "status")["name"] == "Our house", "it tells of the founding alone"


def test_others_are_told_the_advertised_address(cluster: Cluster) -> None:
    first = cluster.new("n1")
    cluster.nodes.append(first)
    advertised = f"localhost:{first.environment['OLLAMAMAX_PEER__PORT']}"
    first.environment["OLLAMAMAX_PEER__ADVERTISE"] = advertised
    first.start()
    assert addresses(first) == [advertised]
    second = cluster.join()  # the token has no other address
    see_each_other(cluster.nodes)
    assert addresses(second) == [advertised]


def test_the_authoritys_key_is_encrypted(cluster: Cluster) -> None:
    first = cluster.new("n1")
    first.environment["OLLAMAMAX_PEER__CA_PASSPHRASE"] = "open sesame"
    first.start()
    key = first.folder / "home" / "cluster" / "ca.key"
    sealed = key.read_bytes()
    assert sealed.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    first.stop()
    for wrong, said in (("sesame", "is wrong"), ("", "is encrypted: give its passphrase")):
        first.environment["OLLAMAMAX_PEER__CA_PASSPHRASE"] = wrong
        (first.folder / "node.log").unlink()
        assert first.start(wait=False).ended() == 1
        assert str(key) in first.log
        assert said in first.log
        assert "OLLAMAMAX_PEER__CA_PASSPHRASE" in first.log
        assert "Traceback" not in first.log
    assert key.read_bytes() == sealed
    first.environment["OLLAMAMAX_PEER__CA_PASSPHRASE"] = "open sesame"
    first.start()
    cluster.nodes.append(first)
    cluster.join()
    see_each_other(cluster.nodes)
    assert "sesame" not in first.log


def test_nodes_whose_addresses_all_changed_find_each_other_by_seeds(cluster: Cluster) -> None:
    first = cluster.found()
    second = cluster.join()
    see_each_other(cluster.nodes)
    for node in cluster.nodes:
        node.stop()
        node.environment["OLLAMAMAX_PEER__PORT"] = str(free_port(2))
    for node in cluster.nodes:
        node.start()
    stays("without seeds neither knows where the other is", lambda: states(first)["n2"] != "ready")
    assert states(second)["n1"] != "ready"
    second.stop()
    second.environment["OLLAMAMAX_PEER__SEEDS"] = f"127.0.0.1:{first.environment['OLLAMAMAX_PEER__PORT']}"
    second.start()
    see_each_other(cluster.nodes)


def test_a_node_without_multicast_is_not_found_on_the_lan(hosts: Hosts) -> None:
    """And with it, it is."""
    hidden, shown, looking = (hosts.new(name) for name in ("hidden", "shown", "looking"))
    hidden.arguments = ("--set", "peer.multicast=false", "--set", "peer.cluster_name=hidden")
    shown.arguments = ("--set", "peer.cluster_name=shown")
    for node in (hidden, shown, looking):
        node.start()

    def found() -> set[str]:
        return {one["name"] for one in cli_json(looking, "discover") if not one["is_ours"]}

    eventually("the one with multicast is found", lambda: bool(found()))
    assert found() == {"shown"}


def test_silence_is_suspicious_after_the_lease(cluster: Cluster) -> None:
    first = cluster.found()
    second = cluster.new("n2")
    second.environment["OLLAMAMAX_PEER__LEASE_S"] = "60"
    second.arguments = ("--join", cluster.token())
    second.start()
    cluster.nodes.append(second)
    third = cluster.join()
    third.stop()
    third.environment["OLLAMAMAX_PEER__LEASE_S"] = "1"
    third.start()
    see_each_other(cluster.nodes)
    third.send(signal.SIGSTOP)
    eventually("the one with a short lease is suspected", lambda: states(first)["n3"] != "ready")
    third.kill()
    long_ago = time.monotonic() + 50
    second.send(signal.SIGSTOP)
    stays("the one with a long lease is not", lambda: states(first)["n2"] == "ready" or time.monotonic() > long_ago)
