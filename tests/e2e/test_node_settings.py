"""Settings of one node that are read where it is put together, and that they act."""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from nodes import LIMIT_S, Node, add_model, eventually, request

from models import write_llama
from threaded_server import QuietHandler, serving

NewNode = Callable[..., Node]
DAY_S = 86_400


@pytest.fixture
def collector() -> Iterator[tuple[str, list[str]]]:
    """Its URL, and the paths that were posted to."""
    paths: list[str] = []

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

    with serving(Handler) as url:
        yield url, paths


def test_what_a_node_keeps_lies_where_it_was_told(new_node: NewNode) -> None:
    node = new_node()
    assert (node.folder / "home" / "cluster" / "identity.json").is_file()
    assert list((node.folder / "models" / "blobs").glob("sha256-*"))
    assert {path.name for path in node.folder.iterdir()} == {"home", "models", "node.log"}


def test_it_listens_where_it_was_told(new_node: NewNode) -> None:
    node = new_node(start=False)
    node.environment["OLLAMA_HOST"] = f"127.0.0.2:{node.port}"
    node.start(wait=False)

    def answers(host: str) -> bool:
        try:
            return request("GET", f"http://{host}:{node.port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    eventually("it answers there", lambda: answers("127.0.0.2"))
    assert not answers("127.0.0.1")


def test_a_public_address_has_to_be_meant(new_node: NewNode) -> None:
    node = new_node(start=False, OLLAMA_HOST="192.0.2.1:11434")
    assert node.start(wait=False).ended() == 2
    assert "--insecure-public" in node.log
    (node.folder / "node.log").unlink()
    node.environment["OLLAMAMAX_LISTEN__INSECURE_PUBLIC"] = "true"
    assert node.start(wait=False).ended() == 2
    assert "192.0.2.1:11434 is no address of this machine" in node.log, "it was tried"


@pytest.mark.parametrize("noprune", ["false", "true"])
def test_blobs_that_no_model_uses_are_removed_unless_told_otherwise(new_node: NewNode, noprune: str) -> None:
    node = new_node(OLLAMAMAX_ENGINE__NOPRUNE=noprune)
    assert node.stop() == 0
    unused = node.folder / "models" / "blobs" / f"sha256-{'0' * 64}"
    unused.write_bytes(b"x")
    os.utime(unused, times=(time.time() - DAY_S,) * 2)
    node.start()
    assert unused.exists() is (noprune == "true")


def test_more_requests_than_may_wait_are_turned_away(new_node: NewNode) -> None:
    node = new_node(OLLAMA_NUM_PARALLEL="1", OLLAMA_MAX_QUEUE="1")
    write_llama(node.folder / "chain.gguf", chain=True, context=200_000)
    add_model(node.url, "chain", node.folder / "chain.gguf")
    endless = {"model": "chain", "prompt": "a", "raw": True, "options": {"num_predict": -1, "num_ctx": 150_000}}
    short = {**endless, "stream": False, "options": {"num_predict": 3, "num_ctx": 150_000}}
    with ThreadPoolExecutor(1) as pool:
        with httpx.stream("POST", f"{node.url}/api/generate", json=endless, timeout=LIMIT_S) as answer:
            lines = answer.iter_lines()  # kept: httpx closes the connection of an iterator that is dropped
            next(lines)
            waiting = pool.submit(node.ask, "POST", "/api/generate", short)
            eventually("the second waits", lambda: "ollamamax_queue_waiting 1.0" in node.get("/metrics").text)
            refused = node.ask("POST", "/api/generate", short)
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
        assert waiting.result().status_code == 200


@pytest.mark.parametrize(("level", "says"), [("info", True), ("error", False)])
def test_logs_have_a_level_and_a_form(new_node: NewNode, level: str, says: bool) -> None:
    node = new_node(OLLAMAMAX_LOG__LEVEL=level, OLLAMAMAX_LOG__FORMAT="json")
    assert node.stop() == 0
    lines = [json.loads(line) for line in node.log.splitlines() if line.startswith("{")]
    assert any(line["event"] == "stopping" for line in lines) is says
    node.environment["OLLAMAMAX_LOG__FORMAT"] = "console"
    (node.folder / "node.log").unlink()
    node.start()
    assert node.stop() == 0
    assert not [line for line in node.log.splitlines() if line.startswith("{")]
    assert ("stopping" in node.log) is says


def test_traces_go_where_they_were_told(new_node: NewNode, collector: tuple[str, list[str]]) -> None:
    url, paths = collector
    node = new_node(OLLAMAMAX_TELEMETRY__OTLP_ENDPOINT=url)
    asked = node.ask("POST", "/api/generate", {"model": "tiny", "prompt": "hi", "stream": False})
    assert asked.status_code == 200
    assert node.stop() == 0
    assert paths
    assert set(paths) == {"/v1/traces"}


def test_a_node_that_shall_never_have_a_cluster(new_node: NewNode) -> None:
    node = new_node(OLLAMAMAX_PEER__HOST="off")
    assert not (node.folder / "home" / "cluster").exists()
    assert node.get("/admin/v1/nodes").status_code != 200
    assert node.ask("POST", "/api/generate", {"model": "tiny", "prompt": "hi", "stream": False}).status_code == 200
