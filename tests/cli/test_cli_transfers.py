"""pull, push, and run of a model that is nowhere yet."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cli_support import Cli, cli
from fake_node import Asked, Reply, error, generated, stream
from pty_child import Pty

__all__ = ["cli"]

DIGEST = "sha256:" + "ab" * 32
TITLE = f"pulling {'ab' * 6}"
SUCCESS = {"status": "success"}


def blob(completed: int, total: int = 1000) -> dict[str, Any]:
    return {"status": TITLE, "digest": DIGEST, "total": total, "completed": completed}


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_a_transfer_is_told_step_by_step(cli: Cli, verb: str) -> None:
    cli.node.answers[f"POST /api/{verb}"] = stream({"status": "first"}, blob(0), blob(9), blob(1000), SUCCESS)
    done = cli(verb, "me/model", "--insecure")
    assert (done.code, done.out, done.err.splitlines()) == (0, "", ["first", TITLE, "success"])
    assert cli.node.asked[-1].json == {"model": "me/model", "insecure": True}


def test_what_came_earlier_is_told(cli: Cli) -> None:
    cli.node.answers["POST /api/pull"] = stream(blob(430), blob(700), blob(1000), SUCCESS)
    assert cli("pull", "model").err.splitlines() == [f"{TITLE}: going on, 43% came earlier", TITLE, "success"]


def test_json(cli: Cli) -> None:
    cli.node.answers["POST /api/pull"] = stream(blob(1), SUCCESS)
    done = cli("pull", "model", "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {"status": "success", "model": "model"}


def test_failures(cli: Cli) -> None:
    cli.node.answers["POST /api/pull"] = stream({"error": "pull model manifest: file does not exist"})
    done = cli("pull", "model")
    assert (done.code, done.err) == (1, "Error: pull model manifest: file does not exist\n")
    cli.node.answers["POST /api/pull"] = stream(blob(1))
    assert "what has come is kept" in cli("pull", "model").err
    cli.node.answers["POST /api/push"] = stream({"error": "unauthorized: access denied"})
    assert "you are not authorized to push to this namespace" in cli("push", "model").err
    cli.node.answers["POST /api/push"] = stream({"error": "something else"})
    assert cli("push", "model").err == "Error: something else\n"


def test_a_model_that_is_nowhere_is_pulled_and_run(cli: Cli) -> None:
    pulled = threading.Event()

    def show(_: Asked) -> Reply:
        return Reply(body={"capabilities": ["completion"]}) if pulled.is_set() else error(404, "model 'm' not found")

    def pull(_: Asked) -> Reply:
        pulled.set()
        return stream(SUCCESS)

    cli.node.answers |= {
        "POST /api/show": show,
        "POST /api/pull": pull,
        "GET /api/tags": Reply(body={"models": []}),
        "POST /api/generate": generated("Hello."),
    }
    done = cli("run", "m", "hi", "--insecure")
    assert (done.code, done.out) == (0, "Hello.\n")
    assert [request.json["insecure"] for request in cli.node.to("/api/pull")] == [True]


def test_a_model_that_can_not_be_pulled_is_not_run(cli: Cli) -> None:
    cli.node.answers |= {
        "POST /api/show": error(404, "model 'm' not found"),
        "POST /api/pull": stream({"error": "pull model manifest: file does not exist"}),
        "GET /api/tags": Reply(body={"models": []}),
    }
    assert cli("run", "m", "hi").err == "Error: pull model manifest: file does not exist\n"
    cli.node.answers["POST /api/show"] = error(400, "invalid model name")
    assert cli("run", "m", "hi").err == "Error: invalid model name\n"
    assert len(cli.node.to("/api/pull")) == 1


def test_ctrl_c_at_a_bar(cli: Cli, tmp_path: Path) -> None:
    held = threading.Event()
    cli.node.answers["POST /api/pull"] = stream(blob(1_000_000, 4_000_000), SUCCESS, hold=held)
    child = Pty("pull", "model", node=cli.node.url, home=tmp_path)
    try:
        child.expect("1.0/4.0 MB")
        os.kill(child.process.pid, signal.SIGINT)
        child.expect("what has come is kept: `ollamamax pull model`")
        assert child.close() == 130
        deadline = time.monotonic() + 10
        while not cli.node.gone.is_set():
            assert time.monotonic() < deadline
            cli.node.gone.wait(0.1)
    finally:
        held.set()
        child.end()
