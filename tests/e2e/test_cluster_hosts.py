"""Clusters on hosts with addresses of their own: cut networks, one-way losses, moves, and everything at once."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clusters import Cluster, all_ready, answer, cli, cli_json, see_each_other, states
from hosts import Host, HostNode, Lan, heal, lan_or_skip, partition
from nodes import Node, eventually


@pytest.fixture
def lan() -> Iterator[Lan]:
    made = lan_or_skip()
    yield made
    made.close()


class Hosts(Cluster):
    """One node per host."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.hosts: list[Host] = []

        def make(name: str) -> Node:
            home = folder / name
            home.mkdir()
            host = lan.add_host()
            self.hosts.append(host)
            environment = {"OLLAMAMAX_PEER__NODE_NAME": name, "OLLAMA_CONTEXT_LENGTH": "512"}
            return HostNode(host, home, environment)

        super().__init__(make)


@pytest.fixture
def three(lan: Lan, tmp_path: Path) -> Iterator[Hosts]:
    cluster = Hosts(lan, tmp_path)
    cluster.found()
    cluster.join()
    cluster.join()
    see_each_other(cluster.nodes)
    yield cluster
    cluster.stop()


def sees(node: Node, name: str, *wanted: str) -> bool:
    return states(node)[name] in wanted


def out(node: Node, name: str) -> bool:
    return states(node)[name] != "ready"


def test_hosts_find_each_other_and_are_found(three: Hosts, lan: Lan, tmp_path: Path) -> None:
    for node in three.nodes:
        assert answer(node)["response"]
    stranger = three._make("x1")
    stranger.start()
    found = cli_json(stranger, "discover")
    three.nodes.append(stranger)
    others = [cluster for cluster in found if not cluster["is_ours"]]
    assert len(others) == 1
    assert any(lan.net in address for address in others[0]["addresses"])


def test_a_cut_network_heals_by_itself(three: Hosts) -> None:
    first, second, third = three.nodes
    partition(three.hosts[:2], three.hosts[2:])
    eventually("the two lose the third", lambda: out(first, "n3") and out(second, "n3"), 5)
    eventually("the third loses the two", lambda: out(third, "n1") and out(third, "n2"), 5)
    for node in three.nodes:
        assert answer(node)["response"]
    heal(three.hosts[:2], three.hosts[2:])
    eventually("all see each other", lambda: all_ready(three.nodes), 15)


def test_what_is_lost_in_one_direction(three: Hosts) -> None:
    """What n3 says never reaches n1, though the mesh goes on by way of n2: n1's requests find that out, and succeed."""
    first, second, third = three.nodes
    cli(first, "node", "cordon", "n1")
    eventually("n1 is cordoned", lambda: sees(first, "n1", "cordoned"), 5)
    three.hosts[2].lose(three.hosts[:1])
    deadline = time.monotonic() + 20
    with ThreadPoolExecutor(8) as pool:
        while sees(first, "n3", "ready"):
            assert time.monotonic() < deadline, "n1 goes on believing that it can use n3"
            for got in pool.map(lambda number: answer(first, prompt=f"{number}", num_predict=2), range(16)):
                assert got["done"]
    assert sees(second, "n3", "ready")
    assert answer(third)["response"]
    three.hosts[2].find(three.hosts[:1])
    cli(first, "node", "uncordon", "n1")
    eventually("all see each other", lambda: all_ready(three.nodes), 15)


def test_a_pulled_plug_is_noticed_within_five_seconds(three: Hosts) -> None:
    first, second, third = three.nodes
    three.hosts[1].unplug()
    eventually("it is out", lambda: out(first, "n2") and out(third, "n2"), 5)
    assert answer(first)["response"]
    three.hosts[1].plug_in()
    began = time.monotonic()
    eventually("it is used again", lambda: all_ready([first, third]), 10)
    print(f"used again after {time.monotonic() - began:.1f} s")
    eventually("it sees the others", lambda: all_ready([second]), 10)


@pytest.mark.parametrize("moved", [0, 2], ids=["holder", "member"])
def test_a_node_gets_another_address(three: Hosts, moved: int) -> None:
    three.hosts[moved].move(100 + moved)
    eventually("all see each other again", lambda: all_ready(three.nodes), 40)
    name = f"n{moved + 1}"
    other = three.nodes[1]

    def is_told() -> bool:
        addresses = cli_json(other, "node", "show", name)["addresses"]
        return addresses[0].startswith(three.hosts[moved].address + ":")

    eventually("its new address is known", is_told, 30)
    assert all(answer(node)["response"] for node in three.nodes)


def test_all_hosts_lose_power_and_come_back(three: Hosts) -> None:
    for node in three.nodes:
        assert node.process is not None
        node.process.kill()
        node.process.wait()
    for node in reversed(three.nodes):
        node.start(wait=False)
    for node in three.nodes:
        eventually("the node is ready", node.ready, 30)
    see_each_other(three.nodes)
    assert all(answer(node)["response"] for node in three.nodes)
