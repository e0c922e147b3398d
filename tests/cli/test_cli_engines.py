"""`ollamamax engine`."""

import json
from typing import Any

import pytest
from cli_support import Cli, cli
from fake_node import Reply, error, fake_node

from ollamamax.cli.commands.engine import default_name

__all__ = ["cli"]  # the fixture


@pytest.fixture(autouse=True)
def admin(cli: Cli) -> None:
    cli.node.answers["POST /admin/v1/engines"] = Reply(201, {})
    cli.node.answers["GET /admin/v1/engines"] = Reply(body={"engines": []})


def posted(cli: Cli) -> Any:
    return next(request.json for request in cli.node.asked if request.method == "POST")


def test_an_ollama_server_is_recognised(cli: Cli) -> None:
    with fake_node() as other:
        done = cli("engine", "add", other.url + "/", "--slots", "8")
        port = other.url.rpartition(":")[2]
        assert posted(cli) == {
            "name": f"127.0.0.1-{port}",
            "kind": "ollama",
            "url": other.url,
            "slots": 8,
        }
        assert done.out == f"attached '127.0.0.1-{port}' (ollama) at {other.url} with 8 slots\n"


def test_an_openai_server_is_recognised_and_its_key_kept_secret(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "s3cret")
    with fake_node() as other:
        del other.answers["GET /api/version"]
        other.answers["GET /v1/models"] = Reply(body={"object": "list", "data": []})
        done = cli("engine", "add", f"{other.url}/v1", "--name", "box", "--api-key-env", "THE_KEY", "--json")
        assert other.asked[-1].headers["authorization"] == "Bearer s3cret"
    body = posted(cli)
    assert (body["kind"], body["api_key"], body["name"]) == ("openai", "s3cret", "box")
    assert body["url"].endswith("/v1")
    assert "s3cret" not in done.out + done.err
    assert json.loads(done.out)["name"] == "box"


def test_a_key_from_standard_input(cli: Cli) -> None:
    done = cli("engine", "add", "box:1", "--kind", "openai", "--api-key-stdin", stdin="s3cret\n")
    assert done.code == 0
    assert posted(cli)["api_key"] == "s3cret"
    assert posted(cli)["url"] == "http://box:1"


@pytest.mark.parametrize(
    ("words", "stdin", "text"),
    [
        (["--api-key-env", "NOT_SET_HERE"], None, "NOT_SET_HERE (--api-key-env) is not set"),
        (["--api-key-stdin"], "\n", "no API key came"),
        (["--api-key-stdin", "--api-key-env", "X"], "k", "only one of"),
    ],
)
def test_keys_that_are_none(cli: Cli, words: list[str], stdin: str | None, text: str) -> None:
    done = cli("engine", "add", "http://box", "--kind", "ollama", *words, stdin=stdin)
    assert done.code == 1
    assert text in done.err


def test_what_is_neither(cli: Cli) -> None:
    with fake_node() as other:
        other.answers.clear()
        done = cli("engine", "add", other.url)
    assert done.code == 1
    assert "neither an Ollama nor an OpenAI-compatible server" in done.err
    assert "/v1/models answered 404" in done.err
    done = cli("engine", "add", "http://127.0.0.1:1")
    assert done.err == "Error: nothing answers at http://127.0.0.1:1\n"


def test_a_refusal_is_told(cli: Cli) -> None:
    cli.node.answers["POST /admin/v1/engines"] = error(409, "an engine named 'box' is attached already")
    assert cli("engine", "add", "http://x", "--kind", "ollama").err == (
        "Error: an engine named 'box' is attached already\n"
    )


def test_an_engine_that_does_not_answer_is_attached_with_a_warning(cli: Cli) -> None:
    down = {"name": "x", "kind": "ollama", "url": "http://x", "slots": 4, "reachable": False, "error": "refused"}
    cli.node.answers["GET /admin/v1/engines"] = Reply(body={"engines": [down]})
    done = cli("engine", "add", "http://x", "--kind", "ollama")
    assert done.code == 0
    assert done.err == "Warning: the node can't reach it yet: refused\n"


def test_list(cli: Cli) -> None:
    engines: list[dict[str, Any]] = [
        {"name": "local", "kind": "llamacpp", "url": "", "slots": 2, "in_flight": 0, "reachable": True, "models": []},
        {
            "name": "a",
            "kind": "ollama",
            "url": "http://a",
            "slots": 4,
            "in_flight": 1,
            "reachable": True,
            "models": ["m", "n"],
        },
        {"name": "b", "kind": "openai", "url": "http://b", "slots": 2, "reachable": False, "error": "refused"},
    ]
    cli.node.answers["GET /admin/v1/engines"] = Reply(body={"engines": engines})
    lines = cli("engine", "list").out.splitlines()
    assert lines[1].split() == ["local", "llamacpp", "-", "0/2", "up"]
    assert lines[2].split() == ["a", "ollama", "http://a", "1/4", "up", "m,", "n"]
    assert "down: refused" in lines[3]
    assert json.loads(cli("engine", "list", "--json").out) == engines


def test_remove(cli: Cli) -> None:
    cli.node.answers["DELETE /admin/v1/engines/a"] = Reply(body={"name": "a"})
    assert cli("engine", "remove", "a").out == "removed 'a'\n"
    cli.node.answers["DELETE /admin/v1/engines/b%2Fc"] = error(404, "no engine 'b/c'")
    done = cli("engine", "remove", "a", "b/c")
    assert (done.code, done.out, done.err) == (1, "removed 'a'\n", "Error: no engine 'b/c'\n")


@pytest.mark.parametrize(
    ("url", "name"),
    [("http://GPU-box:11434", "gpu-box-11434"), ("https://api.x.io/v1", "api.x.io"), ("http://[::1]:1/a", "1-1")],
)
def test_default_names(url: str, name: str) -> None:
    assert default_name(url) == name
