"""Three machines that are one: joining, answers through any node, nodes that die, stop and come back."""

import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from clusters import (
    FAILED,
    TOKENS,
    Cluster,
    all_ready,
    answer,
    by_engine,
    cli,
    cli_json,
    cordon,
    is_out_of,
    see_each_other,
    states,
)
from nodes import LIMIT_S, Node, add_model, eventually

from docker_registry import docker_registry
from models import write_llama


def has_model(node: Node, name: str) -> bool:
    return any(one["name"] == f"{name}:latest" for one in node.get("/api/tags").json()["models"])


def is_loaded(node: Node, name: str) -> bool:
    return any(one["name"] == f"{name}:latest" for one in node.get("/api/ps").json()["models"])


def nothing_goes_to(name: str, node: Node) -> None:
    """Many requests at once that a node takes are all answered, without so much as a try of a node that is out."""
    before = by_engine(node, TOKENS, FAILED).get(f"{name}/local")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: answer(node, prompt=f"{number}", num_predict=4), range(16)))
    assert all(one["done"] for one in answers)
    assert by_engine(node, TOKENS, FAILED).get(f"{name}/local") == before


def test_three_nodes_answer_as_one_and_a_fourth_takes_requests(three: Cluster) -> None:
    first, second, third = three.nodes
    ready = [(f"n{n}", "ready") for n in (1, 2, 3)]
    eventually(
        "the command line shows them in order",
        lambda: [(row["name"], row["state"]) for row in cli_json(second, "nodes")] == ready,
    )
    assert "n3" in cli(third, "nodes").stdout
    for node in three.nodes:
        assert answer(node)["response"]
    fourth = three.join()
    eventually("the fourth is seen by all", lambda: all_ready(three.nodes))
    cordon(first, "n1", "n2", "n3")

    def has_answered() -> bool:
        return bool(answer(first)["response"]) and cli_json(fourth, "node", "show", "n4")["loaded"] == ["tiny:latest"]

    eventually("it takes requests", has_answered)


def test_a_model_of_one_node_is_a_model_of_all(three: Cluster) -> None:
    first, second, third = three.nodes
    write_llama(second.folder / "chain.gguf", chain=True)
    add_model(second.url, "chain", second.folder / "chain.gguf")
    eventually("the model is listed", lambda: all(has_model(node, "chain") for node in three.nodes))
    expected = answer(second, "chain", "a1", num_predict=20)["response"]
    assert answer(first, "chain", "a1", num_predict=20)["response"] == expected
    shown = third.ask("POST", "/api/show", {"model": "chain"}).json()
    assert shown["details"]["family"] == "llama"
    eventually("/api/ps of any node tells that it is loaded", lambda: is_loaded(third, "chain"))
    copied = first.ask("POST", "/api/copy", {"source": "chain", "destination": "chain2"})
    assert copied.status_code == 200, copied.text
    eventually("the copy is listed", lambda: has_model(third, "chain2"))
    cordon(first, "n2")
    eventually("n3 knows that n2 is cordoned", lambda: states(third)["n2"] == "cordoned")
    assert answer(third, "chain", "a1", num_predict=20)["response"] == expected, "from blobs that n2 gave"
    deleted = first.ask("DELETE", "/api/delete", {"model": "chain"})
    assert deleted.status_code == 200, deleted.text
    eventually("nobody has it", lambda: not any(has_model(node, "chain") for node in three.nodes))
    gone = third.ask("POST", "/api/generate", {"model": "chain", "prompt": "x"})
    assert gone.status_code == 404, gone.text


def test_a_model_that_another_node_has_is_pushed(three: Cluster, tmp_path: Path) -> None:
    first, second, _ = three.nodes
    write_llama(second.folder / "chain.gguf", chain=True)
    add_model(second.url, "chain", second.folder / "chain.gguf")
    eventually("the other knows it", lambda: has_model(first, "chain"))
    with docker_registry(tmp_path / "registry") as port:
        name = f"127.0.0.1:{port}/me/chain"
        cli(first, "cp", "chain", name)
        eventually(
            "the copy is known",
            lambda: any(one["name"].startswith(name) for one in first.get("/api/tags").json()["models"]),
        )
        cli(first, "push", "--insecure", name)
        assert httpx.get(f"http://127.0.0.1:{port}/v2/me/chain/tags/list").json()["tags"] == ["latest"]


def test_killed_frozen_and_back(three: Cluster) -> None:
    first, second, third = three.nodes
    third.kill()
    eventually("the killed one is out", lambda: is_out_of([first, second], "n3"))
    nothing_goes_to("n3", first)
    third.start()
    eventually("it is used again", lambda: all_ready(three.nodes))
    third.send(signal.SIGSTOP)
    eventually("the silent one is out", lambda: is_out_of([first, second], "n3"))
    nothing_goes_to("n3", second)
    third.send(signal.SIGCONT)
    eventually("it is used again", lambda: all_ready(three.nodes))


class Askers:
    """Eight clients that ask a node without end, two tokens at a time. counts: answers of each."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._is_over = threading.Event()
        self.counts = [0] * 8
        self.failures: list[str] = []

    def ask(self, number: int) -> None:
        body = {"model": "tiny", "prompt": f"{number}", "stream": False, "options": {"num_predict": 2}}
        while not self._is_over.is_set():
            got = self._node.ask("POST", "/api/generate", body)
            if got.status_code != 200:
                self.failures.append(f"{got.status_code} {got.text}")
            self.counts[number] += 1

    def one_more_each(self) -> None:
        """Returns when each has asked anew since, and been answered."""
        before = list(self.counts)
        eventually(
            "everybody is answered",
            lambda: all(now >= then + 2 for now, then in zip(self.counts, before, strict=True)),
        )

    def end(self) -> None:
        self._is_over.set()


def test_requests_survive_the_death_of_the_node_they_went_to(three: Cluster) -> None:
    """Nobody saw a token of them: they are answered elsewhere, and nobody is told of the death."""
    first, _, third = three.nodes
    cordon(first, "n1")
    askers = Askers(first)
    with ThreadPoolExecutor(len(askers.counts)) as pool:
        all_of_them = [pool.submit(askers.ask, number) for number in range(len(askers.counts))]
        try:
            askers.one_more_each()
            eventually("n3 has its part of them", lambda: "n3/local" in by_engine(first, TOKENS))
            third.kill()
            eventually("n3 is out", lambda: is_out_of([first], "n3"))
            askers.one_more_each()
        finally:
            askers.end()
        for one in all_of_them:
            one.result()
    assert not askers.failures, askers.failures[:3]


def test_the_holder_is_gone_and_inference_goes_on(three: Cluster) -> None:
    first, second, third = three.nodes
    first.kill()
    for node in (second, third):
        assert answer(node)["response"], "before anybody has noticed"
    eventually("its loss is noticed", lambda: is_out_of([second, third], "n1"))
    unreachable = 'ollamamax_state_holder_reachable{cluster="ollamamax"} 0.0'
    for node in (second, third):
        eventually("/readyz says so", lambda node=node: "n1" in node.get("/readyz").text)  # type: ignore[misc]
        eventually("/metrics says so", lambda node=node: unreachable in node.get("/metrics").text)  # type: ignore[misc]
        assert node.get("/readyz").status_code == 200
        nothing_goes_to("n1", node)
    refused = cli(second, "node", "label", "n3", "a=b", check=False)
    assert refused.returncode != 0
    assert "n1" in refused.stderr + refused.stdout
    second.kill()
    second.start()
    assert answer(second)["response"], "a node that starts anew meanwhile serves from what it knew"
    first.start()
    see_each_other(three.nodes)
    eventually("writes work", lambda: cli(second, "node", "label", "n3", "a=b", check=False).returncode == 0)
    eventually("all know of it", lambda: cli_json(third, "node", "show", "n3")["labels"] == {"a": "b"})


def test_all_are_killed_and_come_back(three: Cluster) -> None:
    cli(three.nodes[0], "node", "label", "n2", "room=kitchen")
    for node in three.nodes:
        node.kill()
    for node in three.nodes:
        node.start(wait=False)
    for node in three.nodes:
        eventually("the node is ready", node.ready)
    see_each_other(three.nodes)
    kitchen = {"room": "kitchen"}
    eventually("all know it", lambda: cli_json(three.nodes[2], "node", "show", "n2")["labels"] == kitchen)
    assert all(answer(node)["response"] for node in three.nodes)


def test_a_removed_node_is_out_everywhere(three: Cluster) -> None:
    first, second, third = three.nodes
    cli(first, "node", "remove", "n3", "--yes")
    eventually("both forgot it", lambda: set(states(first)) == set(states(second)) == {"n1", "n2"})
    said = lambda: "removed" in third.get("/readyz").text  # noqa: E731
    eventually("it is refused and says why", said)
    third.stop()
    third.start()
    eventually("it can't come back by itself, and says why", said)
    assert set(states(first)) == {"n1", "n2"}
    assert answer(third)["response"], "alone it still serves what it has"
    third.stop()
    third.arguments = ("--join", three.token())
    third.start()
    see_each_other(three.nodes)


def test_tokens_that_are_no_good(cluster: Cluster) -> None:
    first = cluster.found()
    token = cluster.token()
    cluster.join()
    for bad in (token[:-3], "nonsense", token.replace("omx1.", "omx9.")):
        stranger = cluster.new(f"bad{len(bad)}")
        stranger.arguments = ("--join", bad)
        assert stranger.start(wait=False).ended() != 0
        assert "token" in stranger.log
    used = cluster.token()
    for name, code in (("x1", None), ("x2", 1)):
        node = cluster.new(name)
        node.arguments = ("--join", used)
        node.start(wait=code is None)
        if code is None:
            cluster.nodes.append(node)
        else:
            assert node.ended() == code
            assert "used" in node.log
    eventually("only those with a token are in", lambda: set(states(first)) == {"n1", "n2", "x1"})


def test_a_copied_home_is_noticed(three: Cluster, tmp_path: Path) -> None:
    second = three.nodes[1]
    copy = three.new("copy")
    shutil.copytree(second.folder / "home", copy.folder / "home")

    def is_refused() -> bool:
        """It looks for the original for a second, in which a slow machine may not have that answer."""
        process = copy.start(wait=False).process
        assert process is not None
        eventually("it knows what to do", lambda: process.poll() is not None or copy.answers())
        return copy.stop() != 0 and "identity" in copy.log

    eventually("the copy is refused", is_refused)
    eventually("the original is none the worse for it", lambda: all_ready(three.nodes))


def test_many_streams_through_another_node_lose_nothing(three: Cluster) -> None:
    first, second, _ = three.nodes
    write_llama(second.folder / "chain.gguf", chain=True)
    add_model(second.url, "chain", second.folder / "chain.gguf")
    eventually("the model is listed", lambda: has_model(first, "chain"))
    prompts = [f"{chr(97 + n % 13)}{n % 5}" for n in range(32)]
    expected = {one: answer(second, "chain", one, num_predict=60)["response"] for one in set(prompts)}

    def ask(prompt: str) -> str:
        text = ""
        body = {"model": "chain", "prompt": prompt, "options": {"num_predict": 60, "temperature": 0}}
        with httpx.stream("POST", f"{first.url}/api/generate", json=body, timeout=LIMIT_S) as got:
            for line in got.iter_lines():
                text += json.loads(line)["response"]
        return text

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, prompts))
    assert answers == [expected[prompt] for prompt in prompts]


def test_nothing_of_the_cluster_listens_without_certificates(three: Cluster) -> None:
    """The home's secrets are its owner's alone."""
    for node in three.nodes:
        for path in (node.folder / "home" / "cluster").rglob("*.key"):
            assert os.stat(path).st_mode & 0o077 == 0, path


def test_a_damaged_state_is_refused_and_restored_from_a_snapshot(cluster: Cluster) -> None:
    first = cluster.found()
    cli(first, "node", "label", "n1", "room=attic")
    first.stop()  # leaves a snapshot
    home = first.folder / "home" / "cluster"
    (path,) = home.glob("*.db")
    path.write_bytes(b"garbage" * 1000)
    assert first.start(wait=False).ended() != 0
    assert "restore-state" in first.log
    assert path.read_bytes().startswith(b"garbage"), "nothing was overwritten"
    done = cli_json(first, "cluster", "restore-state", "--yes")
    assert Path(done["former"]).read_bytes().startswith(b"garbage")
    first.start()
    assert cli_json(first, "node", "show", "n1")["labels"] == {"room": "attic"}


def test_a_node_that_runs_joins_at_once(cluster: Cluster) -> None:
    first = cluster.found()
    second = cluster.new("n2").start()
    cluster.nodes.append(second)
    joined = cli_json(second, "join", cluster.token())
    assert (joined["node"], joined["was_member"]) == ("n2", False)
    see_each_other(cluster.nodes)
    assert cli_json(second, "cluster", "status")["cluster_id"] == cli_json(first, "cluster", "status")["cluster_id"]
    assert answer(second)["response"]
    assert list((second.folder / "home").glob("cluster.old-*")), "its own cluster was kept aside"


def clock_of(offset: str) -> dict[str, str]:
    """The environment of a process whose clock is so much off."""
    library = next(Path("/usr/lib").rglob("libfaketime.so.1"), None)
    if library is None:
        reason = "libfaketime is not installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return {"LD_PRELOAD": str(library), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def test_papers_that_expired_while_the_node_was_off(cluster: Cluster) -> None:
    first = cluster.found()
    second = cluster.join()
    for node in (first, second):
        node.stop()
        node.environment |= clock_of("+8d")
    assert second.start(wait=False).ended() != 0
    assert "expired" in second.log
    assert "ollamamax join TOKEN" in second.log
    first.start()  # it signs its own
    second.arguments = ("--join", cluster.token())
    second.start()
    see_each_other(cluster.nodes)
    assert set(states(first)) == {"n1", "n2"}, "it is the same node as before"


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_clock_that_is_an_hour_wrong(cluster: Cluster, offset: str) -> None:
    first = cluster.found()
    second = cluster.new("n2")
    second.environment |= clock_of(offset)
    second.arguments = ("--join", cluster.token())
    second.start()
    cluster.nodes.append(second)
    see_each_other(cluster.nodes)
    assert all(answer(node)["response"] for node in cluster.nodes)
    hour_ns = 3_600 * 10**9
    there = cli_json(second, "cluster", "status")["certificate_expires_ns"]
    assert abs(there - time.time_ns() - 7 * 24 * hour_ns) < hour_ns / 10, "by the clock of the node that signs"
    first.kill()
    eventually("it is out", lambda: is_out_of([second], "n1"))
    first.start()
    see_each_other(cluster.nodes)
