"""The demo and its nodes, with stand-ins for the nodes; tests/e2e has it with real ones."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ollamamax.cli import nodes as nodes_module
from ollamamax.cli import showing
from ollamamax.cli.client import Client
from ollamamax.cli.errors import CliError
from ollamamax.cli.nodes import Nodes, free_port

FAKE = Path(__file__).with_name("fake_serve.py")


@pytest.fixture
def fake_interpreter(tmp_path: Path) -> Path:
    """A program that `python -m ollamamax serve` can be replaced by."""
    script = tmp_path / "interpreter"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


@pytest.fixture
def nodes(fake_interpreter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    monkeypatch.setattr(nodes_module, "_INTERPRETER", str(fake_interpreter))
    folder = tmp_path / "nodes"
    folder.mkdir()
    return Nodes(folder)


def pids(nodes: Nodes) -> list[int]:
    return [child.pid for child in nodes._children.values()]


def test_nodes_start_answer_and_end(nodes: Nodes) -> None:
    with nodes:
        urls = [(name, nodes.start(name, free_port())) for name in ("a", "b")]
        nodes.wait(urls)
        nodes.check()
        started = pids(nodes)
        with Client(urls[0][1]) as client:
            assert [node["name"] for node in client.get("/admin/v1/nodes")["nodes"]] == ["a"]
    assert not any(psutil.pid_exists(pid) for pid in started)
    assert nodes.last_words("a") == "listening"
    nodes.stop()


def test_a_node_that_dies_is_told_with_its_last_words(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVE", "dies")
    with nodes, pytest.raises(CliError, match=r"the node a ended while it started.*\n.*port is in use"):
        nodes.wait([("a", nodes.start("a", free_port()))])
    with pytest.raises(CliError, match="the node a has ended"):
        nodes.check()


def test_a_node_that_never_gets_ready(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVE", "deaf")
    monkeypatch.setattr(nodes_module, "_START_S", 0.5)
    with nodes, pytest.raises(CliError, match="not ready in time"):
        nodes.wait([("a", nodes.start("a", free_port()))])


def test_a_node_that_stays_is_killed(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVE", "stays")
    monkeypatch.setattr(nodes_module, "_STOP_S", 0.1)
    with nodes:
        nodes.wait([("a", nodes.start("a", free_port()))])
        (child,) = nodes._children.values()
    assert child.returncode == -signal.SIGKILL


def test_settings_of_the_environment_do_not_reach_the_nodes(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMAMAX_NONSENSE", "1")
    monkeypatch.setenv("OLLAMA_MODELS", "/x")
    assert not [name for name in nodes_module._plain_environment() if name.startswith("OLLAMA")]


def test_free_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) not in (0, port)
    assert free_port(port) == port


def test_the_demo_once(nodes: Nodes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(showing, "Nodes", lambda folder: nodes)
    former = signal.getsignal(signal.SIGTERM)
    showing.show(once=True, port=free_port())
    said = capsys.readouterr().out
    assert "the first node is up at http://127.0.0.1:" in said
    assert "two more have joined it by a token, over mutual TLS" in said
    told = [line.split() for line in said.splitlines() if " ready " in line]
    assert all(line[-1] != "-" for line in told), "facts of all of them are waited for"
    assert [line[:3] for line in told] == [
        ["first", "(this)", "ready"],
        ["second", "ready", "-"],
        ["third", "ready", "-"],
    ]
    for name in ("first", "second", "third"):
        assert f"\n{name} says pid " in said
    assert "questions at once" not in said
    assert not any(psutil.pid_exists(pid) for pid in pids(nodes))
    assert signal.getsignal(signal.SIGTERM) is former


def demo_process(fake_interpreter: Path) -> subprocess.Popen[str]:
    code = f"from ollamamax.cli import nodes, app\nnodes._INTERPRETER = {str(fake_interpreter)!r}\napp.main(['demo'])"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """All output up to the line with that text."""
    assert process.stdout is not None
    watchdog = threading.Timer(40, process.kill)
    watchdog.start()
    said = ""
    try:
        for line in process.stdout:
            said += line
            if text in line:
                return said
    finally:
        watchdog.cancel()
    raise AssertionError(f"{text!r} was not said: {said}")


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demo_takes_its_nodes_along(fake_interpreter: Path, how: signal.Signals) -> None:
    process = demo_process(fake_interpreter)
    try:
        said = read_until(process, "Ctrl-C ends it.")
        assert "12 questions at once" in said
        assert "Tokens by the node that answered: first 0, second 36, third 0." in said
        assert 'ollamamax serve --join "$(OLLAMA_HOST=http://127.0.0.1:' in said
        assert "OLLAMA_HOST=http://127.0.0.1:" in said
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3
        process.send_signal(how)
        rest = process.communicate(timeout=30)[0]
    finally:
        process.kill()
        process.wait()
    assert gone(children)
    if how is not signal.SIGKILL:
        assert process.returncode == 0
        # A signal in the middle of printing has that line printed again.
        assert rest.endswith("\nStopping the nodes.\n")
        assert "Traceback" not in rest


def test_the_demo_tells_when_a_node_ends(fake_interpreter: Path) -> None:
    process = demo_process(fake_interpreter)
    try:
        read_until(process, "Ctrl-C ends it.")
        children = psutil.Process(process.pid).children()
        os.kill(children[0].pid, signal.SIGKILL)
        rest = process.communicate(timeout=30)[0]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "Error: the node first has ended. Its last words:\nlistening" in rest
    assert gone(children)


def test_a_node_joins_only_if_told_and_never_leaves_loopback(nodes: Nodes, tmp_path: Path) -> None:
    with nodes:
        nodes.start("a", free_port())
        nodes.start("b", free_port(), join=str(tmp_path))
        alone, joining = (list(child.args) for child in nodes._children.values())  # type: ignore[arg-type]
    assert "--join" not in alone
    assert joining[joining.index("--join") + 1] == str(tmp_path)
    for words in (alone, joining):
        assert words[words.index("--peer-listen") + 1] == "127.0.0.1:0"
        assert "peer.multicast=false" in words


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    monkeypatch.setattr(showing, "_SEEN_S", 0.1)
    return lambda: False


def test_waiting_in_vain_is_an_error(impatient: Callable[[], bool]) -> None:
    with pytest.raises(CliError, match="in vain until the moon is full"):
        showing._until("the moon is full", impatient)
