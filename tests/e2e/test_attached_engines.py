"""Two more engines elsewhere: requests go to the best one, and to another when that fails."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from clusters import FAILED, TOKENS, by_engine
from nodes import LIMIT_S, Node, eventually

from threaded_server import QuietHandler, serving

LISTED = {
    "name": "tiny:latest",
    "model": "tiny:latest",
    "size": 1,
    "size_vram": 0,
    "digest": "0" * 64,
    "details": {},
    "modified_at": "2026-01-01T00:00:00Z",
    "expires_at": "2036-01-01T00:00:00Z",
}


def attach(node: Node, name: str, url: str, kind: str = "ollama", slots: int = 4) -> None:
    answer = node.ask("POST", "/admin/v1/engines", {"name": name, "kind": kind, "url": url, "slots": slots})
    assert answer.status_code == 201, answer.text


def ask(node: Node, model: str = "tiny") -> httpx.Response:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    body = {"model": model, "messages": messages, "stream": False, "options": {"temperature": 0}}
    return node.ask("POST", "/api/chat", body)


def reachable(node: Node) -> dict[str, bool]:
    return {one["name"]: one["reachable"] for one in node.get("/admin/v1/engines").json()["engines"]}


def test_three_engines_share_the_work_and_one_may_die(new_node: Callable[..., Node]) -> None:
    main, left, right = new_node(OLLAMA_NUM_PARALLEL="1"), new_node(), new_node()
    attach(main, "left", left.url)
    attach(main, "right", right.url)

    def all_have_worked() -> bool:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: ask(main), range(60)))
        assert all("Paris" in answer.json()["message"]["content"] for answer in answers)
        return set(by_engine(main, TOKENS)) == {"local", "left", "right"}

    eventually("all three have worked", all_have_worked)
    left.kill()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(main), range(60)))
    assert [answer.status_code for answer in answers] == [200] * 60
    assert set(reachable(main)) >= {"left", "right"}
    eventually("the dead engine is shown as out of reach", lambda: not reachable(main)["left"])
    left.start()
    eventually("the engine is back", lambda: reachable(main)["left"])


def test_attached_engines_survive_a_restart_and_can_be_removed(new_node: Callable[..., Node]) -> None:
    main, other = new_node(), new_node()
    main.ask("DELETE", "/api/delete", {"model": "tiny"})
    assert ask(main).status_code == 404
    attach(main, "other", other.url)
    assert ask(main).status_code == 200
    tags = main.get("/api/tags").json()["models"]
    assert [row["name"] for row in tags] == ["tiny:latest"]
    assert main.stop() == 0
    main.start()
    eventually("the engine's model answers again", lambda: ask(main).status_code == 200)
    assert main.ask("DELETE", "/admin/v1/engines/other").status_code == 200
    assert main.ask("DELETE", "/admin/v1/engines/other").status_code == 404
    assert ask(main).status_code == 404


@pytest.fixture
def rogue() -> Iterator[tuple[str, list[str]]]:
    """An Ollama-shaped server that lists `tiny` as loaded and misbehaves as the last entry of the list says."""
    behaviour = ["garbage"]

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.reply(json.dumps({"models": [LISTED], "version": "0.12.0"}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            mode = behaviour[-1]
            if mode == "garbage":
                self.reply(b"\x00\xff not json\n")
            elif mode == "error":
                self.reply(b'{"error":"broken inside"}', 500)
            elif mode == "close":
                self.close_connection = True
            elif mode == "mid-stream":
                line = json.dumps({"model": "tiny", "message": {"role": "assistant", "content": "par"}, "done": False})
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                payload = line.encode() + b"\n"
                self.wfile.write(f"{len(payload):x}\r\n".encode() + payload + b"\r\n")
                self.wfile.flush()
                self.close_connection = True

    with serving(Handler) as url:
        yield url, behaviour


@pytest.mark.parametrize("mode", ["garbage", "error", "close"])
def test_before_the_first_token_another_engine_answers(
    new_node: Callable[..., Node], rogue: tuple[str, list[str]], mode: str
) -> None:
    url, behaviour = rogue
    behaviour.append(mode)
    main = new_node()
    attach(main, "rogue", url)
    answers = [ask(main) for _ in range(6)]
    assert ["Paris" in answer.json()["message"]["content"] for answer in answers] == [True] * 6
    assert "rogue" in by_engine(main, FAILED)


def test_after_the_first_token_the_client_is_told(new_node: Callable[..., Node], rogue: tuple[str, list[str]]) -> None:
    url, behaviour = rogue
    behaviour.append("mid-stream")
    main = new_node()
    attach(main, "rogue", url)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    with httpx.stream("POST", f"{main.url}/api/chat", json=body, timeout=LIMIT_S) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert lines[0]["message"]["content"] == "par"
    assert "error" in lines[-1]
    assert answer.status_code == 200
