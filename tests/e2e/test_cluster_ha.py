"""The cluster's state on three machines: spread, lost in parts, lost in whole, and brought back."""

import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from clusters import Cluster, answer, cli, cli_json, on_loopback, see_each_other, states
from msgspec.structs import replace
from nodes import LIMIT_S, Node, eventually

from certificates import Authority
from etcds import etcd_path, specs
from ollamamax.adapters.state import etcd_keeper
from ollamamax.adapters.state.etcd_flags import arguments, environment
from ollamamax.core.types import EtcdProgram, EtcdSpec


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = on_loopback(tmp_path, OLLAMA_CONTEXT_LENGTH="512", OLLAMAMAX_STATE__ETCD_PATH=etcd_path())
    yield made
    made.stop()


def grown(cluster: Cluster, count: int) -> list[Node]:
    cluster.found()
    for _ in range(count - 1):
        cluster.join()
    see_each_other(cluster.nodes)
    return cluster.nodes


def enable(node: Node, *options: str) -> Any:
    return cli_json(node, "cluster", "ha", "enable", *options)


def home(node: Node) -> Any:
    answered = node.get("/admin/v1/cluster/ha")
    assert answered.status_code == 200, answered.text
    return answered.json()


def hosts(node: Node) -> dict[str, Any]:
    return {host["name"]: host for host in home(node)["hosts"]}


def is_well(node: Node, *names: str) -> bool:
    """Whether those hold the state on etcd, as this node sees it, and nothing is wrong."""
    told = home(node)
    return {host["name"] for host in told["hosts"]} == {*names} and not told["trouble"] and told["phase"] == "steady"


def leader(node: Node) -> str:
    return next((name for name, host in hosts(node).items() if host["is_leader"]), "")


def etcd_of(node: Node) -> Any:
    return next(child for child in node.children() if child.name() == "etcd")


@contextmanager
def foreign_etcd(folder: Path) -> Iterator[EtcdSpec]:
    """One that nobody of ours looks after, with papers that are good for its clients, too."""
    authority = Authority(folder)
    certificate, key = map(str, authority.issue("localhost", "127.0.0.1"))
    spec = replace(specs(folder, 1)[0], ca=str(authority.path), certificate=certificate, key=key)
    with (folder / "etcd.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                etcd_keeper.__file__,
                *arguments(EtcdProgram(etcd_path(), ""), spec, is_first=True),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )
    try:
        yield spec
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(LIMIT_S)


def new_token(node: Node) -> httpx.Response:
    return node.ask("POST", "/admin/v1/tokens", {"ttl_ms": 3_600_000})


def token_ids(node: Node) -> set[str]:
    return {one["token_id"] for one in node.get("/admin/v1/tokens").json()["tokens"]}


class Load:
    """Clients of a node that write and ask without end. written: what was acknowledged."""

    def __init__(self, *nodes: Node) -> None:
        self._over = threading.Event()
        self.written: set[str] = set()
        self.refused: list[str] = []
        self.answered = 0
        self.failed: list[str] = []
        work = [(self._write, node) for node in nodes] + [(self._ask, node) for node in nodes]
        self._threads = [threading.Thread(target=one, args=(node,), daemon=True) for one, node in work]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def __exit__(self, *of_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(LIMIT_S)

    def goes_on(self) -> None:
        """Returns once more of each was done."""
        written, answered = len(self.written), self.answered
        eventually("writes go on", lambda: len(self.written) > written + 5)
        eventually("answers go on", lambda: self.answered > answered + 2)

    def _write(self, node: Node) -> None:
        while not self._over.is_set():
            got = new_token(node)
            if got.status_code == 201:
                self.written.add(got.json()["token_id"])
            else:
                self.refused.append(got.text)

    def _ask(self, node: Node) -> None:
        body = {"model": "tiny", "prompt": "x", "stream": False, "options": {"num_predict": 4}}
        while not self._over.is_set():
            got = node.ask("POST", "/api/generate", body)
            if got.status_code == 200:
                self.answered += 1
            else:
                self.failed.append(got.text)


def test_nothing_is_lost_while_it_is_spread_and_while_leaders_die(cluster: Cluster) -> None:
    first, second, third = grown(cluster, 3)
    for node in cluster.nodes:
        assert answer(node)["response"], "loaded"
    with Load(first, second) as load:
        told = enable(second)
        assert {host["name"] for host in told["hosts"]} == {"n1", "n2", "n3"}
        assert told["kind"] == "etcd"
        assert not load.refused, "changes wait while the state moves"
        load.goes_on()
        for _ in range(2):
            eventually("all is well", lambda: is_well(second, "n1", "n2", "n3"))
            victim = next(node for node, name in zip(cluster.nodes, ("n1", "n2", "n3"), strict=True)
                if name == leader(second))  # fmt: skip
            etcd_of(victim).kill()
            load.goes_on()
        eventually("all is well", lambda: is_well(second, "n1", "n2", "n3"))
        third.kill()
        load.goes_on()
    assert load.failed == []
    # A node tells what its copy of the state says, which follows by a moment, longer where it has to be sought anew.
    eventually("nothing that was written is lost", lambda: load.written <= token_ids(first) & token_ids(second))
    third.start()
    eventually("the killed one is back", lambda: is_well(third, "n1", "n2", "n3") and load.written <= token_ids(third))
    assert cli(first, "cluster", "ha", "status").stdout.count("voter") == 2


def test_all_of_them_may_start_anew_with_the_founder_last(cluster: Cluster) -> None:
    first, second, third = grown(cluster, 3)
    enable(first)
    for node in cluster.nodes:
        node.kill()
    second.start()
    third.start()
    eventually("two of three are enough", lambda: new_token(third).status_code == 201)
    first.start()
    eventually("it finds its way", lambda: is_well(first, "n1", "n2", "n3") and new_token(first).status_code == 201)


def test_without_a_majority_answers_go_on_and_changes_do_not(cluster: Cluster) -> None:
    first, second, third = grown(cluster, 3)
    enable(first)
    answer(first)
    second.kill()
    third.kill()
    eventually("the others are out", lambda: {*states(first).values()} == {"ready", "gone"})
    refused = new_token(first)
    assert refused.status_code == 503, refused.text
    assert "etcd" in refused.text
    assert answer(first)["response"]
    told = home(first)
    assert told["survives"] == 0
    assert "restore" in " ".join(told["trouble"]), "the way out is told"
    assert first.get("/admin/v1/cluster").json()["degraded"]
    second.start()
    eventually("it takes changes again, by itself", lambda: new_token(first).status_code == 201)


def test_a_lost_founder_is_replaced_and_others_still_join(cluster: Cluster) -> None:
    first, second, third, fourth = grown(cluster, 4)
    enable(second)
    eventually("all is well", lambda: is_well(fourth, "n1", "n2", "n3"))
    first.kill()
    eventually("it is gone", lambda: states(second)["n1"] == "gone")
    replaced = cli_json(second, "cluster", "ha", "replace", "n1", "n4")
    assert {host["name"] for host in replaced["hosts"]} == {"n2", "n3", "n4"}
    cli(second, "cluster", "ha", "replace", "n1", "n4")  # as often as one likes
    cli(second, "node", "remove", "n1")
    third.kill()
    eventually("n4 counts", lambda: new_token(fourth).status_code == 201)
    third.start()
    eventually("all is well", lambda: is_well(second, "n2", "n3", "n4"))
    newcomer = cluster.new("n5")
    newcomer.arguments = ("--join", cli_json(fourth, "token", "create")["token"])
    newcomer.start()
    eventually("the newcomer is in", lambda: states(newcomer).get("n5") == "ready")
    etcd_of(second)
    cli(third, "node", "remove", "n2")
    eventually("its place was taken", lambda: is_well(third, "n3", "n4", "n5"))


def test_back_to_one_node_and_once_more(cluster: Cluster) -> None:
    first, second, third = grown(cluster, 3)
    enable(first)
    before = new_token(third).json()["token_id"]
    third.kill()
    told = cli_json(first, "cluster", "ha", "disable", "--node", "n2")
    assert told["kind"] == "sqlite"
    assert [host["name"] for host in told["hosts"]] == ["n2"]
    assert before in token_ids(first)
    assert new_token(first).status_code == 201
    third.start()
    eventually("who was away finds it", lambda: new_token(third).status_code == 201)
    for node in cluster.nodes:
        eventually("etcd has ended", lambda node=node: not any(one.name() == "etcd" for one in node.children()))
    with ThreadPoolExecutor(2) as pool:  # two at once: one of them is told
        done = list(pool.map(lambda node: cli(node, "cluster", "ha", "enable", check=False), (first, third)))
    assert sorted(one.returncode for one in done) == [0, 1], [one.stderr for one in done]
    second.kill()
    eventually("it is on all three", lambda: new_token(first).status_code == 201)
    assert before in token_ids(third)


def test_a_mover_that_dies(cluster: Cluster) -> None:
    first, second, _ = grown(cluster, 3)
    kept = new_token(second).json()["token_id"]
    mark = ("starting etcd", "waiting until", "copying", "switching")
    for step in mark:
        steps = httpx.stream("POST", first.url + "/admin/v1/cluster/ha", json={}, timeout=LIMIT_S)
        with steps as response:
            for line in response.iter_lines():
                assert "error" not in line, line
                if step in line:
                    first.kill()
                    break
        first.start()
        eventually("it takes changes", lambda: new_token(first).status_code == 201)
        assert kept in token_ids(second)
        if home(first)["kind"] == "etcd":
            cli(first, "cluster", "ha", "disable", "--node", "n1")


def test_a_copy_brings_the_state_back_when_all_else_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    first, second, third, fourth = grown(cluster, 4)
    enable(first)
    kept = new_token(first).json()["token_id"]
    file = tmp_path / "cluster.state"
    cli(first, "cluster", "backup", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for node in (first, second):
        node.kill()
    refused = cli(third, "cluster", "restore", str(file), "--yes", check=False)
    assert refused.returncode != 0, "not while a node runs there"
    third.stop()
    cli(third, "cluster", "restore", str(file), "--yes")
    third.start()
    eventually("the others follow", lambda: home(fourth)["kind"] == "sqlite" and new_token(fourth).status_code == 201)
    assert kept in token_ids(fourth)
    for node in (first, second):  # the former home's majority is back: it has to give in
        node.start()
    for node in (first, second):
        eventually("they follow, too", lambda node=node: home(node)["kind"] == "sqlite")
        eventually("they write there", lambda node=node: new_token(node).json()["token_id"] in token_ids(third))


def test_each_has_to_have_an_etcd(cluster: Cluster, tmp_path: Path) -> None:
    cluster.found()
    for name, text in (("n2", ""), ("n3", "#!/bin/sh\necho etcd Version: 3.5.1\n")):
        path = tmp_path / f"etcd-{name}"
        if text:
            path.write_text(text)
            path.chmod(0o755)
        node = cluster.new(name)
        node.environment["OLLAMAMAX_STATE__ETCD_PATH"] = str(path)
        node.arguments = ("--join", cluster.token())
        node.start()
        cluster.nodes.append(node)
    see_each_other(cluster.nodes)
    first = cluster.nodes[0]
    refused = cli(first, "cluster", "ha", "enable", check=False)
    assert refused.returncode == 1
    assert "n2: etcd can't be started" in refused.stderr
    assert "n3: etcd 3.5.1" in refused.stderr
    assert home(first)["kind"] == "sqlite"
    assert "only 3 can be reached" in cli(first, "cluster", "ha", "enable", "--voters", "5", check=False).stderr
    assert enable(first, "--voters", "1")["kind"] == "etcd", "one that has it, alone"
    assert new_token(cluster.nodes[2]).status_code == 201


def test_an_etcd_that_others_run(cluster: Cluster, tmp_path: Path) -> None:
    first = cluster.found()
    second = cluster.join()
    see_each_other(cluster.nodes)
    refused = cli(first, "cluster", "ha", "enable", "--external", check=False)
    assert "state.endpoints" in refused.stderr
    other = tmp_path / "other"
    other.mkdir()
    with foreign_etcd(tmp_path) as spec:
        for node in cluster.nodes:
            node.stop()
            node.environment |= {
                "OLLAMAMAX_STATE__ENDPOINTS": spec.client_listen,
                "OLLAMAMAX_STATE__CA": str(tmp_path / "other.crt"),
                "OLLAMAMAX_STATE__CERTIFICATE": spec.certificate,
                "OLLAMAMAX_STATE__KEY": spec.key,
            }
        (tmp_path / "other.crt").write_bytes(Authority(other).path.read_bytes())
        for node in cluster.nodes:
            node.start()
        see_each_other(cluster.nodes)
        wrong = cli(first, "cluster", "ha", "enable", "--external", check=False)
        assert "CA" in wrong.stderr or "authority" in wrong.stderr, wrong.stderr
        (tmp_path / "other.crt").write_bytes(Path(spec.ca).read_bytes())
        assert enable(first, "--external")["kind"] == "external"
        first.kill()
        eventually("the other one goes on", lambda: new_token(second).status_code == 201)
        first.start()
        eventually("both do", lambda: new_token(first).status_code == 201)
        cli(second, "cluster", "ha", "disable", "--node", "n2")
        assert new_token(first).status_code == 201
