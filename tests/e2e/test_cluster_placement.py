"""Models that are placed: rebuilt when machines die, moved before a machine is emptied, gone when they are deleted."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from clusters import Cluster, answer, cli, cli_json, see_each_other, states
from nodes import LIMIT_S, Node, add_model, eventually

from models import write_llama


def placed(node: Node, model: str = "tiny") -> dict[str, Any]:
    """As the node sees it; {} if it is not placed."""
    got = node.get(f"/admin/v1/placements/{model}")
    assert got.status_code in (200, 404), got.text
    found: dict[str, Any] = got.json() if got.status_code == 200 else {}
    return found


def ready_on(node: Node, model: str = "tiny") -> dict[str, int]:
    return {one["node"]: one["ready"] for one in placed(node, model).get("nodes", []) if one["ready"]}


def has_file(node: Node, model: str) -> bool:
    """In its own store."""
    return any((node.folder / "models" / "manifests").rglob(f"{model}/latest"))


def add_chain(node: Node) -> None:
    """A model that only this node has."""
    write_llama(node.folder / "chain.gguf", chain=True)
    add_model(node.url, "chain", node.folder / "chain.gguf")


def test_replicas_are_rebuilt_elsewhere_and_explained(three: Cluster) -> None:
    first, second, third = three.nodes
    add_chain(second)
    cli(first, "node", "label", "n2", "room=attic")
    cli(first, "node", "label", "n3", "room=attic")
    eventually("n1 knows the model", lambda: "chain" in first.get("/api/tags").text)
    plan = cli(first, "place", "chain", "--replicas", "2", "--on", "room=attic", "--explain").stdout
    assert "2 replicas wanted" in plan
    assert "n1: lacks the label room=attic" in plan
    assert cli_json(first, "placements") == [], "nothing was changed"
    done = cli_json(first, "place", "chain", "--replicas", "2", "--on", "room=attic", "--wait")
    assert (done["ready"], done["missing"]) == (2, 0)
    assert {one["node"] for one in done["nodes"]} == {"n2", "n3"}
    assert has_file(third, "chain"), "it took the files from n2"
    table = cli(third, "placements").stdout
    assert "chain:latest" in table, table
    cli(first, "place", "chain", "--replicas", "2", "--wait")
    for victim, name in ((second, "n2"), (third, "n3")):
        victim.kill()
        others = {"n1", "n2", "n3"} - {name}
        eventually(f"rebuilt without {name}", lambda others=others: set(ready_on(first, "chain")) == others)  # type: ignore[misc]
        assert answer(first, "chain", "a1", num_predict=4)["response"]
        victim.start()
        see_each_other(three.nodes)
        eventually("the plan is at rest", lambda: placed(first, "chain")["ready"] == 2)
    cli(second, "place", "chain", "--remove")
    eventually("n1 has forgotten it", lambda: cli_json(first, "placements") == [])
    eventually("all have let it go", lambda: not any(ready_on(node, "chain") for node in three.nodes))


def test_a_pin_is_held_on_its_node_or_not_at_all(three: Cluster) -> None:
    first, _, third = three.nodes
    done = cli_json(first, "place", "tiny", "--pin", "n3", "--wait")
    assert [one["node"] for one in done["nodes"]] == ["n3"]
    third.kill()
    eventually("it is missing", lambda: placed(first)["missing"] == 1)
    assert "n3, which is gone" in placed(first)["explanation"]
    third.start()
    eventually("it is back", lambda: ready_on(first) == {"n3": 1})
    refused = cli(first, "place", "tiny", "--pin", "nobody", check=False)
    assert refused.returncode == 1
    assert "nobody" in refused.stderr
    assert "no node" in refused.stderr


def test_several_replicas_on_one_machine(cluster: Cluster) -> None:
    only = cluster.found()
    done = cli_json(only, "place", "tiny", "--replicas", "2", "--wait")
    assert done["nodes"] == [{"node": "n1", "replicas": 2, "ready": 2}]
    assert [one["name"] for one in only.get("/api/ps").json()["models"]] == ["tiny:latest"] * 2
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: answer(only, prompt=f"{n}", num_predict=8), range(24)))
    assert all(one["done"] for one in answers)
    killed = [process for process in only.children() if "llamacpp_child" in " ".join(process.cmdline())]
    for process in killed:
        process.kill()
    assert len(killed) == 2
    eventually("both are missed", lambda: "engine ended by itself" in only.log)
    eventually("both are back", lambda: ready_on(only) == {"n1": 2})
    only.kill()
    only.start()
    eventually("both are back after the node was killed", lambda: ready_on(only) == {"n1": 2})
    unloaded = only.ask("POST", "/api/generate", {"model": "tiny", "keep_alive": 0})
    assert unloaded.status_code == 200, unloaded.text
    assert ready_on(only) == {"n1": 2}, "what is placed stays"
    cli(only, "place", "tiny", "--replicas", "1", "--wait")
    eventually("one is let go", lambda: placed(only)["nodes"] == [{"node": "n1", "replicas": 1, "ready": 1}])


class Askers:
    """Clients that ask for streams without end, and count what fails."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._is_over = threading.Event()
        self.answers = 0
        self.failures: list[str] = []

    def ask(self, number: int) -> None:
        body = {"model": "tiny", "prompt": f"{number}", "options": {"num_predict": 30}}
        url = self._nodes[number % len(self._nodes)].url
        while not self._is_over.is_set():
            try:
                with httpx.stream("POST", f"{url}/api/generate", json=body, timeout=LIMIT_S) as got:
                    last = [json.loads(line) for line in got.iter_lines()][-1]
                if got.status_code != 200 or not last.get("done"):
                    self.failures.append(f"{got.status_code} {last}")
            except (httpx.TransportError, ValueError, IndexError) as error:
                self.failures.append(repr(error))
            self.answers += 1

    def end(self) -> None:
        self._is_over.set()

    def some_more(self) -> None:
        wanted = self.answers + 16
        eventually("answers come", lambda: self.answers >= wanted)


def test_a_drain_under_load_fails_no_request(three: Cluster) -> None:
    first, second, _ = three.nodes
    cli(first, "place", "tiny", "--replicas", "2", "--pin", "n2", "--wait")
    askers = Askers(three.nodes)
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(askers.ask, number) for number in range(6)]
        try:
            askers.some_more()
            node = cli_json(first, "node", "drain", "n2", "--timeout", "170s")
            assert (node["state"], node["slots_used"]) == ("drained", 0)
            askers.some_more()
            assert states(second)["n2"] == "drained"
        finally:
            askers.end()
        for one in futures:
            one.result()
    assert not askers.failures, askers.failures[:3]
    second.stop()
    second.start()
    eventually("it is still drained", lambda: states(first)["n2"] == "drained")
    cli(first, "node", "undrain", "n2")
    eventually("the pin is held again", lambda: "n2" in ready_on(first))
    assert states(first)["n2"] == "ready"


def test_who_plans_is_killed(three: Cluster) -> None:
    first, second, third = three.nodes
    cli(second, "place", "tiny", "--replicas", "2", "--on", "room=x", check=False)
    eventually("it is missing", lambda: placed(first).get("missing") == 2)
    assert "decides where models run" in first.log, "the founder plans"
    first.stop()
    cli(second, "node", "label", "n3", "room=x", check=False)
    assert answer(third)["response"]
    first.start()
    see_each_other(three.nodes)
    cli(second, "node", "label", "n3", "room=x")
    cli(second, "node", "label", "n2", "room=x")
    eventually("it is planned again", lambda: set(ready_on(second)) == {"n2", "n3"})


def test_deleted_while_a_node_is_away(three: Cluster) -> None:
    first, second, third = three.nodes
    add_chain(second)
    eventually("n1 knows the model", lambda: "chain" in first.get("/api/tags").text)
    cli(first, "place", "chain", "--replicas", "2", "--pin", "n3", "--wait")
    assert has_file(third, "chain")
    third.kill()
    deleted = first.ask("DELETE", "/api/delete", {"model": "chain"})
    assert deleted.status_code == 200, deleted.text
    assert cli_json(first, "placements") == []
    third.start()
    see_each_other(three.nodes)
    eventually("it goes there, too", lambda: not has_file(third, "chain"))
    for node in three.nodes:
        eventually("nobody lists it", lambda node=node: "chain" not in node.get("/api/tags").text)  # type: ignore[misc]
    add_chain(second)
    eventually("it can be had again", lambda: "chain" in third.get("/api/tags").text)
    assert answer(third, "chain", "a1", num_predict=4)["response"]


def test_a_model_is_put_on_other_nodes_ahead_of_time(three: Cluster) -> None:
    first, second, third = three.nodes
    write_llama(first.folder / "chain.gguf", chain=True)
    (first.folder / "Modelfile").write_text(f"FROM {first.folder / 'chain.gguf'}\n")
    told = cli(first, "create", "chain", "-f", str(first.folder / "Modelfile"), "--nodes", "2")
    assert "n2: copying chain:latest" in told.stderr
    assert (has_file(second, "chain"), has_file(third, "chain")) == (True, False)
    refused = cli(first, "create", "chain", "-f", str(first.folder / "Modelfile"), "--nodes", "room=x", check=False)
    assert "no node has the label" in refused.stderr
    third.kill()
    eventually("n3 is out", lambda: states(first)["n3"] == "gone")
    failed = cli(first, "create", "chain", "-f", str(first.folder / "Modelfile"), "--nodes", "all", check=False)
    assert failed.returncode == 1
    assert "n3: can't be reached" in failed.stderr
    third.start()
    see_each_other(three.nodes)
    cli(first, "create", "chain", "-f", str(first.folder / "Modelfile"), "--nodes", "all")
    assert has_file(third, "chain")


def test_what_is_left_when_a_drains_time_is_over_is_ended(cluster: Cluster) -> None:
    only = cluster.found()
    write_llama(only.folder / "chain.gguf", chain=True, context=200_000)
    add_model(only.url, "chain", only.folder / "chain.gguf")
    endless = {"num_predict": 190_000, "num_ctx": 195_000, "temperature": 0}
    body = {"model": "chain", "prompt": "a1", "options": endless}
    with httpx.stream("POST", f"{only.url}/api/generate", json=body, timeout=LIMIT_S) as got:
        lines = got.iter_lines()
        next(lines)
        late = cli(only, "node", "drain", "n1", "--timeout", "1s", "--on-timeout", "keep", check=False)
        assert (late.returncode, "1 answers under way" in late.stderr) == (1, True)
        cli(only, "node", "drain", "n1", "--timeout", "1s", "--on-timeout", "stop", "--no-wait")
        assert "error" in json.loads(list(lines)[-1])
    eventually("it is empty", lambda: states(only)["n1"] == "drained")
    refused = only.ask("POST", "/api/generate", {"model": "tiny", "prompt": "x", "stream": False})
    assert refused.status_code == 503, refused.text
    assert "is being drained" in refused.text
    cli(only, "node", "undrain", "n1")
    assert answer(only, num_predict=2)["done"]
