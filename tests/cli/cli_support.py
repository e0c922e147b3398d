"""Runs commands in the test's process."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_node import FakeNode, Terminal, fake_node

from ollamamax.cli.app import main


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class Cli:
    """Calls `ollamamax ...` with the fake node as OLLAMA_HOST."""

    def __init__(
        self, node: FakeNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
    ) -> None:
        self.node = node
        self.home = home
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str, stdin: str | None = None, typed: str = "") -> Done:
        """stdin: None is a terminal, at which `typed` is typed."""
        self._monkeypatch.setattr(sys, "stdin", Terminal(stdin, typed))
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        out, err = self._capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    """Commands against a fake node; home and environment are the test's own."""
    with fake_node() as node:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("OLLAMA_HOST", node.url)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.delenv("OLLAMAMAX_HOME", raising=False)
        yield Cli(node, monkeypatch, capsys, tmp_path)
