"""Three machines that are one: joining, answers through any node, nodes that die, stop and come back."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from clusters import Cluster, all_ready, answer, cli, cli_json, on_loopback, see_each_other, states
from nodes import Node, add_model, eventually

from models import write_llama


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = on_loopback(tmp_path, OLLAMA_CONTEXT_LENGTH="512")
    yield made
    made.stop()


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    cluster.found()
    cluster.join()
    cluster.join()
    see_each_other(cluster.nodes)
    return cluster


def has_model(node: Node, name: str) -> bool:
    return any(one["name"] == f"{name}:latest" for one in httpx.get(f"{node.url}/api/tags").json()["models"])


def is_loaded(node: Node, name: str) -> bool:
    return any(one["name"] == f"{name}:latest" for one in httpx.get(f"{node.url}/api/ps").json()["models"])


def freeze(node: Node) -> None:
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)


def thaw(node: Node) -> None:
    assert node.process is not None
    node.process.send_signal(signal.SIGCONT)


def kill(node: Node) -> None:
    assert node.process is not None
    node.process.kill()
    node.process.wait()


def test_three_nodes_answer_as_one_and_a_fourth_takes_requests(three: Cluster) -> None:
    rows = cli_json(three.nodes[1], "nodes")
    assert [(row["name"], row["state"]) for row in rows] == [(f"n{n}", "ready") for n in (1, 2, 3)]
    assert "n3" in cli(three.nodes[2], "nodes").stdout
    for node in three.nodes:
        assert answer(node)["response"]
    fourth = three.join()
    began = time.monotonic()
    eventually("the fourth is seen by all", lambda: all_ready(three.nodes), 5)
    cli(three.nodes[0], "node", "cordon", "n1")
    cli(three.nodes[0], "node", "cordon", "n2")
    cli(three.nodes[0], "node", "cordon", "n3")
    eventually("it takes requests", lambda: bool(answer(three.nodes[0])["response"]), 5)
    assert time.monotonic() - began < 20
    assert cli_json(fourth, "node", "show", "n4")["loaded"] == ["tiny:latest"]


def test_a_model_of_one_node_is_a_model_of_all(three: Cluster) -> None:
    first, second, third = three.nodes
    write_llama(second.folder / "chain.gguf", chain=True)
    add_model(second.url, "chain", second.folder / "chain.gguf")
    for node in three.nodes:
        eventually("the model is listed", lambda node=node: has_model(node, "chain"), 5)  # type: ignore[misc]
    expected = answer(second, "chain", "a1", num_predict=20)["response"]
    assert answer(first, "chain", "a1", num_predict=20)["response"] == expected
    shown = httpx.post(f"{third.url}/api/show", json={"model": "chain"}).json()
    assert shown["details"]["family"] == "llama"
    eventually("/api/ps of any node tells that it is loaded", lambda: is_loaded(third, "chain"), 5)
    copied = httpx.post(f"{first.url}/api/copy", json={"source": "chain", "destination": "chain2"})
    assert copied.status_code == 200, copied.text
    eventually("the copy is listed", lambda: has_model(third, "chain2"), 5)
    cli(first, "node", "cordon", "n2")
    eventually("n2 is cordoned", lambda: states(third)["n2"] == "cordoned", 5)
    assert answer(third, "chain", "a1", num_predict=20)["response"] == expected, "from blobs that n2 gave"
    deleted = httpx.request("DELETE", f"{first.url}/api/delete", json={"model": "chain"})
    assert deleted.status_code == 200, deleted.text
    eventually("nobody has it", lambda: not any(has_model(node, "chain") for node in three.nodes), 5)
    gone = httpx.post(f"{third.url}/api/generate", json={"model": "chain", "prompt": "x"})
    assert gone.status_code == 404, gone.text


def test_killed_frozen_and_back(three: Cluster) -> None:
    first, second, third = three.nodes
    kill(third)
    eventually("the killed one is out", lambda: states(first)["n3"] != "ready" and states(second)["n3"] != "ready", 1)
    third.start()
    eventually("it is used again", lambda: all_ready(three.nodes), 3)
    freeze(third)
    eventually("the silent one is out", lambda: states(first)["n3"] != "ready" and states(second)["n3"] != "ready", 5)
    thaw(third)
    eventually("it is used again", lambda: all_ready(three.nodes), 3)


def test_requests_survive_the_death_of_the_node_they_went_to(three: Cluster) -> None:
    """Those without a first token are answered elsewhere; nobody is told of the death."""
    first, _, third = three.nodes
    cli(first, "node", "cordon", "n1")
    eventually("n1 is cordoned", lambda: states(first)["n1"] == "cordoned", 5)
    failures: list[str] = []
    done = threading.Event()

    def ask(number: int) -> int:
        count = 0
        while not done.is_set():
            got = httpx.post(
                f"{first.url}/api/generate",
                json={"model": "tiny", "prompt": f"{number}", "stream": False, "options": {"num_predict": 2}},
                timeout=60,
            )
            # An answer that had begun may break; whole ones are not delivered before their end.
            if got.status_code != 200 and "closed" not in got.text and "lost" not in got.text:
                failures.append(f"{got.status_code} {got.text}")
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        askers = [pool.submit(ask, number) for number in range(8)]
        time.sleep(1.0)
        kill(third)
        eventually("n3 is out", lambda: states(first)["n3"] != "ready", 1)
        time.sleep(1.0)
        done.set()
        counts = [asker.result() for asker in askers]
    assert not failures, failures[:3]
    assert all(counts)


def test_the_holder_is_gone_and_inference_goes_on(three: Cluster) -> None:
    first, second, third = three.nodes
    kill(first)
    eventually("its loss is noticed", lambda: states(second)["n1"] != "ready" and states(third)["n1"] != "ready", 2)
    for node in (second, third):
        assert answer(node)["response"]
        ready = httpx.get(f"{node.url}/readyz")
        assert ready.status_code == 200
        eventually("/readyz says so", lambda node=node: "n1" in httpx.get(f"{node.url}/readyz").text, 10)  # type: ignore[misc]
        metrics = httpx.get(f"{node.url}/metrics").text
        assert 'ollamamax_state_holder_reachable{cluster="ollamamax"} 0.0' in metrics
    refused = cli(second, "node", "label", "n3", "a=b", check=False)
    assert refused.returncode != 0
    assert "n1" in refused.stderr + refused.stdout
    kill(second)
    second.start()
    assert answer(second)["response"], "a node that starts anew meanwhile serves from what it knew"
    first.start()
    see_each_other(three.nodes)
    eventually("writes work", lambda: cli(second, "node", "label", "n3", "a=b", check=False).returncode == 0, 10)
    assert cli_json(third, "node", "show", "n3")["labels"] == {"a": "b"}


def test_all_are_killed_and_come_back(three: Cluster) -> None:
    cli(three.nodes[0], "node", "label", "n2", "room=kitchen")
    for node in three.nodes:
        kill(node)
    for node in three.nodes:
        node.start(wait=False)
    for node in three.nodes:
        eventually("the node is ready", node.ready, 30)
    see_each_other(three.nodes)
    assert cli_json(three.nodes[2], "node", "show", "n2")["labels"] == {"room": "kitchen"}
    assert all(answer(node)["response"] for node in three.nodes)


def test_a_removed_node_is_out_everywhere(three: Cluster) -> None:
    first, second, third = three.nodes
    cli(first, "node", "remove", "n3", "--yes")
    eventually("both forgot it", lambda: set(states(first)) == set(states(second)) == {"n1", "n2"}, 2)
    said = lambda: "removed" in httpx.get(f"{third.url}/readyz").text  # noqa: E731
    eventually("it is refused and says why", said, 10)
    third.stop()
    third.start()
    eventually("it can't come back by itself, and says why", said, 20)
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
        stranger = cluster._make(f"bad{len(bad)}")
        stranger.arguments = ("--join", bad)
        stranger.start(wait=False)
        assert stranger.process is not None
        assert stranger.process.wait(30) != 0
        assert "token" in stranger.log
    used = cluster.token()
    for name, code in (("x1", None), ("x2", 1)):
        node = cluster._make(name)
        node.arguments = ("--join", used)
        node.start(wait=code is None)
        if code is None:
            cluster.nodes.append(node)
        else:
            assert node.process is not None
            assert node.process.wait(30) == code
            assert "used" in node.log
    assert set(states(first)) == {"n1", "n2", "x1"}


def test_a_copied_home_is_noticed(three: Cluster, tmp_path: Path) -> None:
    import shutil

    second = three.nodes[1]
    copy = three._make("copy")
    shutil.copytree(second.folder / "home", copy.folder / "home")
    copy.start(wait=False)
    assert copy.process is not None
    assert copy.process.wait(30) != 0
    assert "identity" in copy.log
    assert json.loads(cli(second, "nodes", "--json").stdout)[1]["state"] == "ready"


def test_many_streams_through_another_node_lose_nothing(three: Cluster) -> None:
    first, second, _ = three.nodes
    write_llama(second.folder / "chain.gguf", chain=True)
    add_model(second.url, "chain", second.folder / "chain.gguf")
    eventually("the model is listed", lambda: has_model(first, "chain"), 5)
    prompts = [f"{chr(97 + n % 13)}{n % 5}" for n in range(32)]
    expected = {one: answer(second, "chain", one, num_predict=60)["response"] for one in set(prompts)}

    def ask(prompt: str) -> str:
        text = ""
        body = {"model": "chain", "prompt": prompt, "options": {"num_predict": 60, "temperature": 0}}
        with httpx.stream("POST", f"{first.url}/api/generate", json=body, timeout=120) as got:
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
    first.start(wait=False)
    assert first.process is not None
    assert first.process.wait(30) != 0
    assert "restore-state" in first.log
    assert path.read_bytes().startswith(b"garbage"), "nothing was overwritten"
    done = cli_json(first, "cluster", "restore-state", "--yes")
    assert Path(done["former"]).read_bytes().startswith(b"garbage")
    first.start()
    assert cli_json(first, "node", "show", "n1")["labels"] == {"room": "attic"}


def test_a_node_that_runs_joins_at_once(cluster: Cluster) -> None:
    first = cluster.found()
    second = cluster._make("n2").start()
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
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(30) != 0
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
    second = cluster._make("n2")
    second.environment |= clock_of(offset)
    second.arguments = ("--join", cluster.token())
    second.start()
    cluster.nodes.append(second)
    see_each_other(cluster.nodes)
    assert all(answer(node)["response"] for node in cluster.nodes)
    hour_ns = 3_600 * 10**9
    there = cli_json(second, "cluster", "status")["certificate_expires_ns"]
    assert abs(there - time.time_ns() - 7 * 24 * hour_ns) < hour_ns / 10, "by the clock of the node that signs"
    kill(first)
    eventually("it is out", lambda: states(second)["n1"] != "ready", 2)
    first.start()
    see_each_other(cluster.nodes)
