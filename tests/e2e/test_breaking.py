"""What goes wrong for real: killed engines, killed nodes, clients that leave, signals in the middle of answers."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from nodes import LIMIT_S, Node, add_model, eventually

from models import write_llama

ENDLESS = {"num_predict": 190_000, "num_ctx": 195_000, "temperature": 0}
"""Of a model with such a context: longer than anything here waits."""


def stream(
    url: str, model: str, prompt: str, options: dict[str, object], seen: Callable[[int], None] | None = None
) -> list[dict[str, object]]:
    """All lines of a streamed raw generation; `seen` is called with the count after each."""
    lines: list[dict[str, object]] = []
    body = {"model": model, "prompt": prompt, "raw": True, "options": options}
    with httpx.stream("POST", f"{url}/api/generate", json=body, timeout=LIMIT_S) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            lines.append(json.loads(line))
            if seen is not None:
                seen(len(lines))
    return lines


def text_of(lines: list[dict[str, object]]) -> str:
    return "".join(str(line.get("response", "")) for line in lines)


def engines_of(node: Node) -> list[psutil.Process]:
    return [child for child in node.children() if "llamacpp_child" in " ".join(child.cmdline())]


def slots_are_free(node: Node) -> bool:
    return "ollamamax_requests_running 0.0" in node.get("/metrics").text


def test_64_streams_at_once_lose_nothing(new_node: Callable[..., Node]) -> None:
    node = new_node(OLLAMA_NUM_PARALLEL="8", OLLAMA_CONTEXT_LENGTH="512")
    write_llama(node.folder / "chain.gguf", chain=True)
    add_model(node.url, "chain", node.folder / "chain.gguf")
    prompts = [f"{chr(97 + n % 26)}{n % 7}" for n in range(64)]
    options = {"num_predict": 120, "temperature": 0}
    expected = {prompt: text_of(stream(node.url, "chain", prompt, options)) for prompt in set(prompts)}
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda prompt: stream(node.url, "chain", prompt, options), prompts))
    for prompt, lines in zip(prompts, answers, strict=True):
        assert text_of(lines) == expected[prompt]
        assert lines[-1]["done_reason"] == "length"
        assert lines[-1]["eval_count"] == 120


def test_a_killed_engine_gives_an_error_line_and_the_next_request_an_answer(new_node: Callable[..., Node]) -> None:
    node = new_node(OLLAMA_NUM_PARALLEL="4")
    write_llama(node.folder / "chain.gguf", chain=True, context=65536)
    add_model(node.url, "chain", node.folder / "chain.gguf")
    started = threading.Barrier(5, timeout=LIMIT_S)

    def one(n: int) -> list[dict[str, object]]:
        return stream(node.url, "chain", f"a{n}", {"num_predict": 30000, "num_ctx": 32768, "temperature": 0},
                      lambda count: started.wait() and None if count == 3 else None)  # fmt: skip

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(one, n) for n in range(4)]
        started.wait()
        (engine,) = engines_of(node)
        engine.send_signal(signal.SIGKILL)
        for answer in answers:
            lines = answer.result()
            assert "unexpectedly stopped" in str(lines[-1]["error"])
            assert not any(line.get("done") for line in lines)
    again = stream(node.url, "chain", "a", {"num_predict": 5, "num_ctx": 32768, "temperature": 0})
    assert again[-1]["done_reason"] == "length"
    assert [other.pid for other in engines_of(node)] != [engine.pid]


def test_kill_9_of_the_node_leaves_no_child(new_node: Callable[..., Node]) -> None:
    node = new_node()
    node.ask("POST", "/api/generate", {"model": "tiny", "prompt": ""})
    children = node.children()
    assert engines_of(node)
    node.kill()
    _, alive = psutil.wait_procs(children, timeout=LIMIT_S)
    assert not alive


def test_a_client_that_leaves_frees_the_slot(new_node: Callable[..., Node]) -> None:
    node = new_node(OLLAMA_NUM_PARALLEL="1")
    write_llama(node.folder / "chain.gguf", chain=True, context=200_000)
    add_model(node.url, "chain", node.folder / "chain.gguf")
    body = {"model": "chain", "prompt": "a", "raw": True, "options": ENDLESS}
    with httpx.stream("POST", f"{node.url}/api/generate", json=body, timeout=LIMIT_S) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the connection of an iterator that is dropped
        next(lines)
        assert not slots_are_free(node)
    eventually("the slot is free again", lambda: slots_are_free(node))
    assert stream(node.url, "chain", "b", {**ENDLESS, "num_predict": 3})[-1]["done_reason"] == "length"
    assert 'outcome="client_gone"' in node.get("/metrics").text


def test_sigterm_lets_answers_finish(new_node: Callable[..., Node]) -> None:
    node = new_node(OLLAMAMAX_LISTEN__SHUTDOWN_GRACE_S=f"{LIMIT_S:g}")
    write_llama(node.folder / "chain.gguf", chain=True, context=8192)
    add_model(node.url, "chain", node.folder / "chain.gguf")
    options = {"num_predict": 1500, "num_ctx": 4096, "temperature": 0}
    children: list[psutil.Process] = []

    def on_line(count: int) -> None:
        if count == 3:
            children.extend(engines_of(node))
            node.send(signal.SIGTERM)

    lines = stream(node.url, "chain", "a", options, on_line)
    assert lines[-1].get("done_reason") == "length", lines[-1]
    assert lines[-1]["eval_count"] == 1500
    assert node.ended() == 0
    assert len(children) == 1
    assert not psutil.wait_procs(children, timeout=LIMIT_S)[1]


def test_sigterm_ends_an_endless_answer_after_the_grace_time(new_node: Callable[..., Node]) -> None:
    node = new_node(OLLAMAMAX_LISTEN__SHUTDOWN_GRACE_S="1")
    write_llama(node.folder / "chain.gguf", chain=True, context=200_000)
    add_model(node.url, "chain", node.folder / "chain.gguf")

    def on_line(count: int) -> None:
        if count == 3:
            node.send(signal.SIGTERM)

    lines = stream(node.url, "chain", "a", ENDLESS, on_line)
    assert "error" in lines[-1]
    assert node.ended() == 0


def finished(node: Node) -> tuple[int, str]:
    """Start a node that is expected to refuse; its exit code and what it said."""
    done = subprocess.run(
        node.command(), env=node.env(), capture_output=True, stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def test_a_port_in_use_is_named(new_node: Callable[..., Node]) -> None:
    first = new_node()
    second = new_node(start=False)
    second.port = first.port
    code, said = finished(second)
    assert code == 1
    assert f"127.0.0.1:{first.port}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("shared", ["home", "models"])
def test_a_second_node_on_the_same_directory_is_refused(new_node: Callable[..., Node], shared: str) -> None:
    first = new_node()
    variable = {"home": "OLLAMAMAX_HOME", "models": "OLLAMA_MODELS"}[shared]
    second = new_node(start=False, **{variable: str(first.folder / shared)})
    code, said = finished(second)
    assert code == 1
    assert str(first.folder / shared) in said
    assert first.process is not None
    assert str(first.process.pid) in said
    assert "Traceback" not in said
    assert first.ready()


def test_tiny_comes_once_and_rm_sticks(new_node: Callable[..., Node]) -> None:
    node = new_node()
    names = [model["name"] for model in node.get("/api/tags").json()["models"]]
    assert names == ["tiny:latest"]
    assert node.ask("DELETE", "/api/delete", {"model": "tiny"}).status_code == 200
    assert node.stop() == 0
    node.start()
    assert node.get("/api/tags").json() == {"models": []}


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small tmpfs needs root on Linux")
def test_a_full_disk_during_create_loses_nothing(new_node: Callable[..., Node]) -> None:
    node = new_node(start=False)
    models = node.folder / "models"
    models.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(models)], check=True)
    try:
        node.start()
        before = node.get("/api/tags").json()
        digest = "sha256:" + "0" * 64
        big = node.ask("POST", f"/api/blobs/{digest}", content=b"x" * (40 << 20))
        assert big.status_code == 507
        assert "disk full" in big.json()["error"]
        assert node.get("/api/tags").json() == before
        assert not [path for path in (models / "blobs").iterdir() if not path.name.startswith("sha256-")]
        answer = node.ask("POST", "/api/generate", {"model": "tiny", "prompt": "hi", "stream": False})
        assert answer.status_code == 200
    finally:
        node.stop()
        subprocess.run(["umount", str(models)], check=True)


@pytest.mark.parametrize("fault", ["truncated", "foreign", "unknown architecture"])
def test_a_bad_gguf_is_refused_with_the_reason(shared_node: Node, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "model.gguf"
    write_llama(path)
    data = path.read_bytes()
    if fault == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif fault == "foreign":
        path.write_bytes(b"PK\x03\x04" + data[4:])
    else:
        path.write_bytes(data.replace(b"llama", b"lxama"))
    with pytest.raises(
        AssertionError,
        match={"truncated": "trunc|missing|shorter", "foreign": "GGUF", "unknown architecture": "lxama"}[fault],
    ):
        add_model(shared_node.url, "bad", path)
    names = [model["name"] for model in shared_node.get("/api/tags").json()["models"]]
    assert "bad:latest" not in names


def test_a_model_larger_than_memory_is_refused_with_the_numbers(shared_node: Node) -> None:
    answer = shared_node.ask("POST", "/api/generate", {"model": "tiny", "prompt": "x", "options": {"num_ctx": 10**9}})
    # num_ctx is capped to what the model was trained for, so this one fits.
    assert answer.status_code == 200
