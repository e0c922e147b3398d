"""Settings that a cluster shares: set by way of any node, they hold on all while these run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster, cli, cli_json, on_loopback, see_each_other, states
from nodes import Node, eventually

from threaded_server import QuietHandler, serving

CONFIG = "/admin/v1/config"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = on_loopback(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def engine() -> Iterator[tuple[str, list[str]]]:
    """An Ollama server without models: its URL, and the paths that were asked for."""
    paths: list[str] = []

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            paths.append(self.path)
            body = b'{"models": []}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as url:
        yield url, paths


def three(cluster: Cluster) -> list[Node]:
    cluster.found()
    cluster.join()
    cluster.join()
    see_each_other(cluster.nodes)
    return cluster.nodes


def settled(ask: Callable[[], dict[str, Any]], kept: int = 0) -> dict[str, Any]:
    """What came of a change, asked for again until all that are there have told. kept: so many nodes keep their own."""
    change: dict[str, Any] = {}

    def is_told() -> bool:
        change.update(ask())
        return not change["late"] and len(change["kept"]) == kept

    eventually("all have told that they took it over", is_told)
    return change


def put(node: Node, key: str, value: str, kept: int = 0) -> dict[str, Any]:
    def ask() -> dict[str, Any]:
        answer = node.ask("PUT", f"{CONFIG}/{key}", {"value": value})
        assert answer.status_code == 200, answer.text
        change: dict[str, Any] = answer.json()
        return change

    return settled(ask, kept)


def config(node: Node, *words: str) -> dict[str, Any]:
    """A change by the command line."""
    return settled(lambda: cli_json(node, "config", *words))


def shown(node: Node) -> dict[str, Any]:
    return dict(node.get(CONFIG).json()["settings"])


def values(nodes: list[Node], key: str) -> list[Any]:
    return [shown(node)[key]["value"] for node in nodes]


def versions(nodes: list[Node]) -> list[int]:
    return [node.get(CONFIG).json()["version"] for node in nodes]


def test_what_is_set_holds_everywhere_and_going_back_restores_it(cluster: Cluster) -> None:
    nodes = three(cluster)
    change = config(nodes[1], "set", "queue.max_queue", "7")
    assert change["applied"] == ["n1", "n2", "n3"]
    assert values(nodes, "queue.max_queue") == [7, 7, 7]
    assert shown(nodes[2])["queue.max_queue"]["source"] == "cluster, version 1"

    assert config(nodes[2], "set", "queue.max_queue", "9", "--node", "n2")["applied"] == ["n2"]
    assert values(nodes, "queue.max_queue") == [7, 9, 7]
    assert cli(nodes[0], "config", "get", "queue.max_queue", "--node", "n2").stdout == "9\n"

    for key, value, wrong in (
        ("queue.max_queue", "0", "greater than or equal to 1"),
        ("queue.max_queu", "8", "did you mean queue.max_queue"),
        ("peer.seeds", "box:1", "each node's own"),
    ):
        refused = cli(nodes[0], "config", "set", key, value, check=False)
        assert refused.returncode == 1
        assert wrong in refused.stderr
    assert versions(nodes) == [2, 2, 2]
    assert values(nodes, "queue.max_queue") == [7, 9, 7]

    back = config(nodes[1], "rollback", "0")
    assert (back["version"], back["applied"]) == (3, ["n1", "n2", "n3"])
    assert values(nodes, "queue.max_queue") == [512, 512, 512]
    assert config(nodes[2], "rollback", "2")["applied"] == ["n1", "n2", "n3"]
    assert values(nodes, "queue.max_queue") == [7, 9, 7]
    assert [one["version"] for one in cli_json(nodes[2], "config", "history")] == [1, 2, 3, 4]
    assert cli_json(nodes[2], "config", "diff", "2")["changes"] == []


def test_what_a_machine_says_itself_wins_and_is_told(cluster: Cluster) -> None:
    cluster.found()
    second = cluster.new("n2")
    second.arguments = ("--join", cluster.token())
    home = second.folder / "home"
    home.mkdir()
    (home / "config.toml").write_text("[queue]\nmax_queue = 33\n")
    second.start()
    cluster.nodes.append(second)
    see_each_other(cluster.nodes)
    change = put(cluster.nodes[0], "queue.max_queue", "7", kept=1)
    assert change["applied"] == ["n1"]
    (kept,) = change["kept"]
    assert (kept["node"], kept["value"], kept["source"]) == ("n2", 33, str(home / "config.toml"))
    told = "n2 keeps queue.max_queue = 33"
    eventually("people are told", lambda: told in cli(second, "config", "set", "queue.max_queue", "7").stdout)
    row = shown(second)["queue.max_queue"]
    assert (row["value"], row["cluster_value"]) == (33, "7")
    assert values(cluster.nodes, "queue.max_queue") == [7, 33]


def test_who_was_away_takes_it_over_and_a_start_keeps_it(cluster: Cluster) -> None:
    first, second, third = three(cluster)
    third.kill()
    eventually("the others miss it", lambda: states(first)["n3"] == "gone")
    change = put(first, "queue.max_queue", "7")
    assert (change["applied"], change["away"]) == (["n1", "n2"], ["n3"])
    assert put(second, "log.format", "console")["next_start"] == ["log.format"]
    third.start()
    eventually("it has taken it over", lambda: versions([third]) == [2])
    assert values([third], "queue.max_queue") == [7]

    assert shown(second)["log.format"]["next_value"] == "console"
    second.stop()
    first.kill()
    (second.folder / "node.log").unlink()
    second.start()
    assert values([second], "queue.max_queue") == [7], "also while who holds the state is away"
    assert shown(second)["log.format"]["value"] == "console"
    assert not [line for line in second.log.splitlines() if line.startswith("{")]
    first.start()
    assert values([first], "queue.max_queue") == [7]


def test_what_is_set_acts_at_once(new_node: Callable[..., Node], engine: tuple[str, list[str]]) -> None:
    node = new_node()
    url, asked = engine
    origin = {"Origin": "https://a.example"}
    assert node.ask("GET", "/api/version", headers=origin).status_code == 403

    put(node, "routing.poll_s", "3600")
    assert node.ask("POST", "/admin/v1/engines", {"name": "box", "kind": "ollama", "url": url}).status_code == 201
    put(node, "routing.poll_s", "0.05")
    eventually("the engine is asked often", lambda: len(asked) > 20)
    node.ask("DELETE", "/admin/v1/engines/box")

    put(node, "engine.context_length", "512")
    put(node, "engine.num_parallel", "2")
    question = {"model": "tiny", "prompt": "Hello!", "stream": False}
    assert node.ask("POST", "/api/generate", question).status_code == 200
    assert node.get("/api/ps").json()["models"][0]["context_length"] == 512
    assert node.get("/admin/v1/status").json()["engines"][0]["slots"] == 2
    node.ask("POST", "/api/generate", {"model": "tiny", "keep_alive": 0, "stream": False})
    put(node, "engine.keep_alive", "0")
    assert node.ask("POST", "/api/generate", question).status_code == 200
    eventually("it does not stay", lambda: node.get("/api/ps").json()["models"] == [])

    assert '"event": "request"' not in node.log
    put(node, "log.level", "debug")
    node.get("/api/version")
    eventually("requests are told of", lambda: '"event": "request"' in node.log)

    put(node, "listen.origins", "https://a.example")
    assert node.ask("GET", "/api/version", headers=origin).status_code == 200
    put(node, "listen.max_body_bytes", "1024")
    assert node.ask("POST", "/api/generate", {**question, "prompt": "x" * 2000}).status_code == 413

    blobs = {path.name for path in (node.folder / "models" / "blobs").iterdir()}
    put(node, "engine.noprune", "true")
    assert node.ask("DELETE", "/api/delete", {"model": "tiny"}).status_code == 200
    assert {path.name for path in (node.folder / "models" / "blobs").iterdir()} == blobs
