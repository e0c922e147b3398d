"""`ollamamax serve`: settings from its flags, and errors. A real node runs in tests/e2e."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_support import Cli, cli

from ollamamax.core.errors import StoreInUse
from ollamamax.settings import Loaded
from ollamamax.settings.tree import knobs

__all__ = ["cli"]  # the fixture

SERVE_FLAGS: dict[str, tuple[str, Any]] = {
    "home": ("/x/h", Path("/x/h")),
    "models": ("/x/m", Path("/x/m")),
    "listen.host": ("::1", "::1"),
    "listen.port": ("7", 7),
    "listen.origins": ("*", ("*",)),
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


def test_every_flag_of_serve_is_a_setting_that_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Loaded] = []

    def run_node(loaded: Loaded, **_: object) -> int:
        calls.append(loaded)
        return 0

    monkeypatch.setitem(sys.modules, "ollamamax.main", SimpleNamespace(run_node=run_node))  # type: ignore[arg-type]
    for key, (text, value) in SERVE_FLAGS.items():
        assert cli("serve", knobs()[key].flag, text).code == 0
        assert (calls[-1].sources[key].value, calls[-1].sources[key].origin) == (value, f"flag {knobs()[key].flag}")
    assert set(SERVE_FLAGS) == {key for key, knob in knobs().items() if knob.flag}
