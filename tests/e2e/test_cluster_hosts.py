"""Clusters on hosts with addresses of their own: cut networks, one-way losses, moves, and everything at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clusters import all_ready, answer, cli, cli_json, cordon, is_out, is_out_of, see_each_other, states
from hosts import Hosts, Lan, heal, lan_or_skip, partition
from nodes import Node, eventually


@pytest.fixture
def lan() -> Iterator[Lan]:
    made = lan_or_skip()
    yield made
    made.close()


@pytest.fixture
def cluster(lan: Lan, tmp_path: Path) -> Iterator[Hosts]:
    made = Hosts(lan, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def three(cluster: Hosts) -> Hosts:
    cluster.found()
    cluster.join()
    cluster.join()
    see_each_other(cluster.nodes)
    return cluster


def sees(node: Node, name: str) -> bool:
    return states(node)[name] == "ready"


def test_hosts_find_each_other_and_are_found(three: Hosts, lan: Lan, tmp_path: Path) -> None:
    for node in three.nodes:
        assert answer(node)["response"]
    stranger = three.new("x1").start()

    def finds_the_other() -> bool:
        others = [cluster for cluster in cli_json(stranger, "discover") if not cluster["is_ours"]]
        assert len(others) <= 1
        return any(lan.net in address for other in others for address in other["addresses"])

    eventually("a stranger finds the cluster", finds_the_other)


def test_a_cut_network_heals_by_itself(three: Hosts) -> None:
    first, second, third = three.nodes
    partition(three.hosts[:2], three.hosts[2:])
    eventually("the two lose the third", lambda: is_out_of([first, second], "n3"))
    eventually("the third loses the two", lambda: is_out(third, "n1") and is_out(third, "n2"))
    for node in three.nodes:
        assert answer(node)["response"]
    heal(three.hosts[:2], three.hosts[2:])
    see_each_other(three.nodes)


def test_what_is_lost_in_one_direction(three: Hosts) -> None:
    """What n3 says never reaches n1, though the mesh goes on by way of n2: n1's requests find that out, and succeed."""
    first, second, third = three.nodes
    cordon(first, "n1")
    three.hosts[2].lose(three.hosts[:1])

    def is_found_out(pool: ThreadPoolExecutor) -> bool:
        answers = pool.map(lambda number: answer(first, prompt=f"{number}", num_predict=2), range(16))
        assert all(got["done"] for got in answers)
        return not sees(first, "n3")

    with ThreadPoolExecutor(8) as pool:
        eventually("n1 does not believe any more that it can use n3", lambda: is_found_out(pool))
    eventually("n2 can use it", lambda: sees(second, "n3"))
    assert answer(third)["response"]
    three.hosts[2].find(three.hosts[:1])
    cli(first, "node", "uncordon", "n1")
    see_each_other(three.nodes)


def test_a_pulled_plug_is_noticed(three: Hosts) -> None:
    first, second, third = three.nodes
    three.hosts[1].unplug()
    eventually("it is out", lambda: is_out_of([first, third], "n2"))
    assert answer(first)["response"]
    three.hosts[1].plug_in()
    eventually("it is used again", lambda: all_ready([first, third]))
    eventually("it sees the others", lambda: all_ready([second]))


@pytest.mark.parametrize("moved", [0, 2], ids=["holder", "member"])
def test_a_node_gets_another_address(three: Hosts, moved: int) -> None:
    three.hosts[moved].move(100 + moved)
    see_each_other(three.nodes)
    name = f"n{moved + 1}"
    other = three.nodes[1]

    def is_told() -> bool:
        addresses = cli_json(other, "node", "show", name)["addresses"]
        return addresses[0].startswith(three.hosts[moved].address + ":")

    eventually("its new address is known", is_told)
    assert all(answer(node)["response"] for node in three.nodes)


def test_all_hosts_lose_power_and_come_back(three: Hosts) -> None:
    for node in three.nodes:
        node.kill()
    for node in reversed(three.nodes):
        node.start(wait=False)
    for node in three.nodes:
        eventually("the node is ready", node.ready)
    see_each_other(three.nodes)
    assert all(answer(node)["response"] for node in three.nodes)
