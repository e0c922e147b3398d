"""Commands against a fake node: what they send, print and return."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from cli_support import Cli, cli
from fake_node import DIGEST, SHOWN, Reply, error, fake_node, generated, stream

from ollamamax import __version__

__all__ = ["cli"]  # the fixture

MODELS = [
    {
        "name": "tiny:latest",
        "digest": DIGEST,
        "size": 7_300_000,
        "size_vram": 0,
        "modified_at": "2020-01-01T00:00:00Z",
        "expires_at": "2318-01-01T00:00:00Z",
        "context_length": 512,
    },
    {"name": "Far/away:7b"},
]


def test_list(cli: Cli) -> None:
    cli.node.answers["GET /api/tags"] = Reply(body={"models": MODELS})
    done = cli("list")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert lines[1][:4] == ["tiny:latest", DIGEST[:12], "7.3", "MB"]
    assert lines[1][-2:] == ["years", "ago"]
    assert lines[2] == ["Far/away:7b", "-", "-", "-"]
    assert cli("ls", "far").out.count("\n") == 2
    assert json.loads(cli("list", "--json", "TINY").out) == MODELS[:1]


def test_ps(cli: Cli) -> None:
    cli.node.answers["GET /api/ps"] = Reply(body={"models": MODELS[:1]})
    done = cli("ps")
    assert done.out.split() == [
        *("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"),
        *("tiny:latest", DIGEST[:12], "7.3", "MB", "100%", "CPU", "512", "Forever"),
    ]
    assert json.loads(cli("ps", "--json").out) == MODELS[:1]
    assert cli("ps", "other").out.count("\n") == 1


def test_show(cli: Cli) -> None:
    assert cli("show", "tiny").out.startswith("  Model\n    architecture ")
    assert cli.node.asked[-1].json == {"model": "tiny"}
    assert cli("show", "tiny", "--modelfile").out == "FROM tiny\n"
    assert cli("show", "tiny", "--license").out == "one\n\ntwo\nthree\n"
    assert json.loads(cli("show", "tiny", "--json", "--verbose").out) == SHOWN
    assert cli.node.asked[-1].json == {"model": "tiny", "verbose": True}
    done = cli("show", "tiny", "--system", "--template")
    assert done.code == 1
    assert "only one of" in done.err


def test_an_unknown_model_is_told_how_to_get_one(cli: Cli) -> None:
    cli.node.answers["POST /api/show"] = error(404, "model 'nix' not found")
    cli.node.answers["GET /api/tags"] = Reply(body={"models": MODELS})
    done = cli("show", "nix")
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("Error: model 'nix' not found. ")
    for remedy in ("ollamamax list", "ollamamax pull nix", "ollamamax create nix"):
        assert remedy in done.err


def test_cp(cli: Cli) -> None:
    cli.node.answers["POST /api/copy"] = Reply()
    done = cli("cp", "a", "b")
    assert (done.code, done.out) == (0, "copied 'a' to 'b'\n")
    assert cli.node.asked[-1].json == {"source": "a", "destination": "b"}


def test_rm_unloads_deletes_and_goes_on(cli: Cli) -> None:
    cli.node.answers["POST /api/generate"] = lambda asked: (
        error(404, "model 'b' not found") if asked.json["model"] == "b" else Reply(body={"done": True})
    )
    cli.node.answers["DELETE /api/delete"] = lambda asked: (
        error(404, "model 'b' not found") if asked.json["model"] == "b" else Reply()
    )
    done = cli("rm", "a", "b", "c")
    assert done.code == 1
    assert done.out == "deleted 'a'\ndeleted 'c'\n"
    assert done.err.startswith("Error: model 'b' not found. ")
    assert cli.node.to("/api/generate")[0].json == {
        "model": "a",
        "keep_alive": 0,
        "stream": False,
    }
    assert [request.json["model"] for request in cli.node.to("/api/delete")] == ["a", "b", "c"]


def test_stop(cli: Cli) -> None:
    cli.node.answers["POST /api/generate"] = Reply(body={"done": True, "done_reason": "unload"})
    assert cli("stop", "tiny").code == 0
    assert cli.node.asked[-1].json["keep_alive"] == 0
    cli.node.answers["POST /api/generate"] = error(404, "model 'nix' not found")
    assert cli("stop", "nix").err.startswith('Error: couldn\'t find model "nix" to stop')


def test_version(cli: Cli) -> None:
    assert cli("version").out.splitlines()[0] == f"ollamamax version is {__version__}"
    assert json.loads(cli("version", "--json").out) == {"version": __version__, "node": "", "ollama": "0.12.0"}
    assert cli("version").out.splitlines()[1] == "what answers is Ollama 0.12.0"
    cli.node.answers["GET /api/version"] = Reply(body={"version": "0.33.0", "ollamamax": "9.9.9"})
    assert cli("version").out.splitlines()[1:] == [
        "Warning: the node runs version 9.9.9",
        "the node speaks Ollama's API of version 0.33.0",
    ]
    assert cli("--version").out == cli("-v").out == f"ollamamax version is {__version__}\n"


def test_no_node_is_told_how_to_start_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    for words in (["list"], ["run", "tiny", "x"], ["rm", "tiny"], ["stop", "tiny"], ["engine", "list"]):
        done = cli(*words)
        assert done.code == 1
        assert done.err.startswith("Error: no OllamaMax answers at http://127.0.0.1:1 ")
        assert "ollamamax serve" in done.err
    done = cli("version")
    assert done.code == 0
    assert done.err.startswith("Warning: no OllamaMax answers")
    assert json.loads(cli("version", "--json").out)["node"] == ""


def test_a_proxy_does_not_stand_before_loopback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    cli.node.answers["GET /api/ps"] = Reply(body={"models": []})
    assert cli("ps").code == 0


def test_where_the_node_is_comes_from_settings_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.node.answers["GET /api/ps"] = Reply(body={"models": []})
    monkeypatch.delenv("OLLAMA_HOST")
    (cli.home / ".ollamamax").mkdir()
    (cli.home / ".ollamamax" / "config.toml").write_text(f"[listen]\nport = {cli.node.url.rpartition(':')[2]}\n")
    assert cli("ps").code == 0


@pytest.mark.parametrize(("name", "value"), [("OLLAMA_HOST", "box:x"), ("OLLAMAMAX_LISTEN__PORT", "x")])
def test_a_bad_setting_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.delenv("OLLAMA_HOST")
    monkeypatch.setenv(name, value)
    done = cli("ps")
    assert done.code == 2
    assert done.err.startswith("Error: ")
    assert name in done.err


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (error(500, "disk on fire"), "Error: disk on fire\n"),
        (Reply(400, {"error": {"message": "bad", "type": "x"}}), "Error: bad\n"),
        (Reply(403), "answered 403 Forbidden"),
        (Reply(502, "<html>"), "<html>"),
    ],
)
def test_errors_of_the_node_are_passed_on(cli: Cli, reply: Reply, text: str) -> None:
    cli.node.answers["GET /api/tags"] = reply
    done = cli("list")
    assert done.code == 1
    assert text in done.err


def test_something_else_behind_the_address(cli: Cli) -> None:
    cli.node.answers["GET /api/tags"] = stream(b"<html>hello</html>")
    assert "does not speak Ollama's API" in cli("list").err


def test_a_prompt(cli: Cli) -> None:
    cli.node.answers["POST /api/generate"] = generated("Hello", " world", "\u2028!")
    done = cli("run", "tiny", "Say", "hello")
    assert (done.code, done.out, done.err) == (0, "Hello world\u2028!\n", "")
    assert cli.node.asked[-1].json == {"model": "tiny", "prompt": "Say hello"}


def test_a_model_of_which_its_engine_tells_nothing_can_be_run(cli: Cli) -> None:
    cli.node.answers["POST /api/show"] = error(404, "model 'far/Away:7B' not found")
    cli.node.answers["GET /api/tags"] = Reply(body={"models": MODELS})
    cli.node.answers["POST /api/generate"] = generated("hello")
    assert cli("run", "far/Away:7B", "x").out == "hello\n"


def test_what_is_piped_goes_before_the_prompt(cli: Cli) -> None:
    cli.node.answers["POST /api/generate"] = generated("ok")
    cli("run", "tiny", "Summarise", stdin="some text")
    assert cli.node.asked[-1].json["prompt"] == "some text Summarise"
    cli("run", "tiny", stdin="only this")
    assert cli.node.asked[-1].json["prompt"] == "only this"
    done = cli("run", "tiny", stdin="")
    assert done.code == 1
    assert "nothing was asked" in done.err


def test_options_of_run_reach_the_request(cli: Cli) -> None:
    cli.node.answers["POST /api/generate"] = generated("{}", eval_count=2, eval_duration=10**9, total_duration=10**9)
    words = ["--format", "json", "--think", "--keepalive", "10m", "--verbose"]
    done = cli("run", "tiny", *words, "x")
    body = cli.node.asked[-1].json
    assert body == {"model": "tiny", "prompt": "x", "format": "json", "think": True, "keep_alive": "10m"}
    assert "eval rate:            2.00 tokens/s" in done.err
    cli("run", "tiny", "--format", '{"type": "object"}', "--think=high", "--keepalive", "30", "x")
    body = cli.node.asked[-1].json
    assert (body["format"], body["think"], body["keep_alive"]) == ({"type": "object"}, "high", 30)
    cli("run", "tiny", "--think=false", "x")
    assert cli.node.asked[-1].json["think"] is False


@pytest.mark.parametrize(
    ("words", "text"),
    [(["--format", "xml"], "invalid format: xml"), (["--think=much"], 'invalid think value: "much"')],
)
def test_bad_options_of_run(cli: Cli, words: list[str], text: str) -> None:
    done = cli("run", "tiny", *words, "x")
    assert done.code == 1
    assert text in done.err
    assert not cli.node.asked


def test_thinking_is_shown_or_hidden(cli: Cli) -> None:
    thoughts = [{"response": "", "thinking": "Hm. ", "done": False}, {"response": "", "thinking": "Ah.", "done": False}]
    cli.node.answers["POST /api/generate"] = stream(*thoughts, {"response": "4", "done": True})
    assert cli("run", "tiny", "x").out == "Thinking...\nHm. Ah.\n...done thinking.\n\n4\n"
    assert cli("run", "tiny", "--hidethinking", "x").out == "4\n"


def test_an_answer_as_json(cli: Cli) -> None:
    answer = {"model": "tiny", "response": "4", "done": True}
    cli.node.answers["POST /api/generate"] = Reply(body=answer)
    assert json.loads(cli("run", "tiny", "--json", "x").out) == answer
    assert cli.node.asked[-1].json == {"model": "tiny", "prompt": "x", "stream": False}
    assert "--json needs a prompt" in cli("run", "tiny", "--json").err


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (({"response": "Hel", "done": False}, {"error": "engine gone"}), "Error: engine gone\n"),
        (({"response": "Hel", "done": False},), "broke off"),
        (({"response": "Hel", "done": False}, b'{"resp'), "broke off"),
        (({"response": "Hel", "done": False}, b"[]\n"), "can't be understood"),
    ],
)
def test_an_answer_that_breaks_off(cli: Cli, lines: tuple[Any, ...], text: str) -> None:
    cli.node.answers["POST /api/generate"] = stream(*lines)
    done = cli("run", "tiny", "x")
    assert done.code == 1
    assert done.out == "Hel\n", "what came is kept, and the line ended"
    assert text in done.err


def test_an_embedding_model_prints_a_vector(cli: Cli) -> None:
    cli.node.answers["POST /api/show"] = Reply(body={"capabilities": ["embedding"]})
    cli.node.answers["POST /api/embed"] = Reply(body={"embeddings": [[0.6, 0.8]]})
    assert cli("run", "e", "--dimensions", "2", "text").out == "[0.6, 0.8]\n"
    assert cli.node.asked[-1].json == {"model": "e", "input": "text", "dimensions": 2}
    cli("run", "e", "text", "--truncate=false")
    assert cli.node.asked[-1].json == {"model": "e", "input": "text", "truncate": False}
    cli("run", "e", "--truncate", "text")
    assert cli.node.asked[-1].json == {"model": "e", "input": "text", "truncate": True}
    assert 'invalid --truncate value: "so"' in cli("run", "e", "text", "--truncate=so").err
    assert "can't talk" in cli("run", "e").err


def test_files_go_along_for_models_that_see(cli: Cli) -> None:
    (cli.home / "a cat.png").write_bytes(b"PNG")
    cli.node.answers["POST /api/show"] = Reply(body={"capabilities": ["completion", "vision"]})
    cli.node.answers["POST /api/generate"] = generated("a cat")
    cli("run", "v", f"What is in '{cli.home}/a cat.png' and in nix.png?")
    body = cli.node.asked[-1].json
    assert body["images"] == ["UE5H"]
    assert body["prompt"] == "What is in  and in nix.png?"


def test_help_teaches(cli: Cli) -> None:
    for words in (["--help"], ["run", "-h"], ["serve", "--help"], ["engine", "add", "--help"], ["join", "-h"]):
        done = cli(*words)
        assert done.code == 0
        assert "Usage: ollamamax" in done.out
    assert "  ollamamax run tiny " in cli("run", "--help").out
    assert "exit-on-stdin-close" not in cli("serve", "--help").out
    assert cli("nonsense").code == 2


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_what_needs_no_node_imports_no_heavy_module(word: str) -> None:
    code = (
        "import sys\nfrom ollamamax.cli.app import main\n"
        f"try:\n    main([{word!r}])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'httpx', 'pydantic', 'prompt_toolkit', 'fastapi', 'rich.console'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("word", ["signin", "signout"])
def test_commands_of_the_account_are_none(cli: Cli, word: str) -> None:
    done = cli(word)
    assert done.code == 2
    assert f"No such command '{word}'" in done.err
    assert not cli.node.asked


def test_ctrl_c_ends_with_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ollamamax.cli.client.Client.get", interrupted)
    assert cli("ps").code == 130


def test_a_closed_pipe_is_no_traceback() -> None:
    with fake_node() as node:
        node.answers["GET /api/tags"] = Reply(body={"models": MODELS * 5000})
        process = subprocess.Popen(
            [sys.executable, "-m", "ollamamax", "list", "--json"],
            env={**os.environ, "OLLAMA_HOST": node.url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        words = process.stderr.read().decode()
        process.stderr.close()
        process.wait(timeout=30)
        assert "Traceback" not in words
