"""`ollamamax serve`: settings from its flags, and errors. A real node runs in tests/e2e."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_support import Cli, cli

from ollamamax.core.errors import StoreInUse, TokenRefused
from ollamamax.core.types import Joined
from ollamamax.settings import Loaded, Settings
from ollamamax.settings.tree import knobs

__all__ = ["cli"]  # the fixture

# key -> (the flag's value, None if it takes none; the setting's)
SERVE_FLAGS: dict[str, tuple[str | None, Any]] = {
    "home": ("/x/h", Path("/x/h")),
    "models": ("/x/m", Path("/x/m")),
    "listen.host": ("::1", "::1"),
    "listen.port": ("7", 7),
    "listen.origins": ("*", ("*",)),
    "listen.insecure_public": (None, True),
    "peer.host": ("[::1]:99", "::1"),
    "peer.port": ("[::1]:99", 99),
    "peer.node_name": ("box", "box"),
    "engine.keep_alive": ("1h", "1h"),
    "engine.max_loaded_models": ("2", 2),
    "engine.num_parallel": ("2", 2),
    "engine.context_length": ("99", 99),
    "queue.max_queue": ("9", 9),
    "log.level": ("error", "error"),
    "log.format": ("json", "json"),
}


def test_serve_tells_of_bad_settings(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST")
    for words, text in (
        (["--port", "x"], "listen.port = 'x' (flag --port)"),
        (["--set", "listen.prot=1"], "did you mean listen.port?"),
        (["--set", "nonsense"], "--set KEY=VALUE"),
        (["--port", "1", "--set", "listen.port=2"], "listen.port is given twice"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--peer-listen", "box:x"], "--peer-listen box:x: 'box:x' is no address"),
        (["--peer-listen", ":1", "--set", "peer.port=2"], "peer.port is given twice"),
        (["--name", "My Box"], "peer.node_name = 'My Box' (flag --name)"),
    ):
        done = cli("serve", *words)
        assert (done.code, done.out) == (2, ""), done
        assert done.err.startswith("Error: ")
        assert text in done.err


def test_serve_runs_a_node_with_what_was_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Loaded, bool]] = []

    def run_node(loaded: Loaded, ready: Callable[[str], None], exit_on_stdin_close: bool) -> int:
        calls.append((loaded, exit_on_stdin_close))
        ready("http://127.0.0.1:1")
        if len(calls) == 2:
            raise StoreInUse("another process holds it")
        return 3

    monkeypatch.setitem(sys.modules, "ollamamax.main", SimpleNamespace(run_node=run_node))  # type: ignore[arg-type]
    words = ["--keep-alive", "1h", "--set", "engine.kv_cache_type=q8_0", "--exit-on-stdin-close"]
    done = cli("serve", *words)
    assert (done.code, done.out) == (3, "OllamaMax is listening on http://127.0.0.1:1\n")
    settings = calls[0][0].settings
    assert (settings.engine.keep_alive, settings.engine.kv_cache_type, calls[0][1]) == ("1h", "q8_0", True)
    assert calls[0][0].sources["listen.port"].origin == "environment OLLAMA_HOST"
    done = cli("start")
    assert (done.code, done.err) == (1, "Error: another process holds it\n")
    assert calls[1][1] is False


def test_serve_joins_before_it_serves(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Any] = []

    def join_offline(settings: Settings, token: str, name: str, force: bool) -> Joined:
        order.append((settings.home, token, name, force))
        if token == "forged":
            raise TokenRefused("this token is no token of that cluster")
        return Joined(cluster_id="c" * 16, cluster="home", node=name, node_id="a" * 16, was_member=len(order) > 2)

    def run_node(loaded: Loaded, **_: object) -> int:
        order.append("served")
        return 0

    main = SimpleNamespace(run_node=run_node, join_offline=join_offline)
    monkeypatch.setitem(sys.modules, "ollamamax.main", main)  # type: ignore[arg-type]
    done = cli("serve", "--join", "T", "--name", "box", "--home", "/x")
    assert (done.code, done.err) == (0, "joined the cluster 'home' as 'box'\n")
    assert order == [(Path("/x"), "T", "box", False), "served"]
    assert cli("serve", "--join", "T", "--name", "box").err == "'box' is a member of the cluster 'home' already\n"
    done = cli("serve", "--join", "forged")
    assert (done.code, done.err) == (1, "Error: this token is no token of that cluster\n")
    assert order[-1][1] == "forged", "it must not serve alone instead"


def test_every_flag_of_serve_is_a_setting_that_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Loaded] = []

    def run_node(loaded: Loaded, **_: object) -> int:
        calls.append(loaded)
        return 0

    monkeypatch.setitem(sys.modules, "ollamamax.main", SimpleNamespace(run_node=run_node))  # type: ignore[arg-type]
    for key, (text, value) in SERVE_FLAGS.items():
        assert cli("serve", knobs()[key].flag, *([] if text is None else [text])).code == 0
        assert (calls[-1].sources[key].value, calls[-1].sources[key].origin) == (value, f"flag {knobs()[key].flag}")
    assert set(SERVE_FLAGS) == {key for key, knob in knobs().items() if knob.flag}
