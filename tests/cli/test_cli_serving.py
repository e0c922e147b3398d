"""`ollamamax serve` as a process of its own: what it has in memory, and how it ends when there is nothing to serve."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 60
NOT_IN_A_NODE = {
    "aetcd", "aiohttp", "click", "email_validator", "fastapi", "grpc", "httpx", "opentelemetry", "prompt_toolkit",
    "pygments", "rich", "shellingham", "typer", "unittest", "uvicorn", "xllamacpp", "zstandard",
}  # fmt: skip
TELLING_MODULES = """
import atexit, os, sys
node = os.getpid()
atexit.register(lambda: os.getpid() == node and print("modules", *sorted(sys.modules)))
from ollamamax.cli.app import main
main()
"""


def environment(home: Path) -> dict[str, str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("OLLAMA_", "OLLAMAMAX_"))}
    return {**plain, "HOME": str(home)}


def test_a_node_has_imported_nothing_that_an_idle_one_does_not_need(tmp_path: Path) -> None:
    words = ["serve", "--port", "0", "--peer-listen", "127.0.0.1:0", "--set", "peer.multicast=false"]
    with subprocess.Popen(
        [sys.executable, "-c", TELLING_MODULES, *words, "--exit-on-stdin-close"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(tmp_path),
        text=True,
    ) as node:
        assert node.stdout is not None
        assert node.stdout.readline().startswith("OllamaMax is listening on http://127.0.0.1:")
        told, _ = node.communicate(timeout=LIMIT_S)  # closes its input
    assert node.returncode == 0
    modules = told.splitlines()[-1].split()
    assert modules[0] == "modules"
    assert "ollamamax.main.run" in modules
    assert NOT_IN_A_NODE & {name.partition(".")[0] for name in modules} == set()


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (["serve", "--help"], 0, "Usage: ollamamax serve", ""),
        (["start", "--nonsense"], 2, "", "No such option: --nonsense"),
        (["serve", "--set", "nonsense"], 2, "", "Error: --set nonsense: write --set KEY=VALUE"),
        (["serve", "--port", "x"], 2, "", "Error: listen.port = 'x' (flag --port)"),
        (["serve", "--join", "no-token"], 1, "", "Error: "),
    ],
)
def test_a_process_that_can_not_serve_says_why(tmp_path: Path, words: list[str], code: int, out: str, err: str) -> None:
    command = [sys.executable, "-m", "ollamamax", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment(tmp_path))
    assert done.returncode == code, done
    assert out in done.stdout
    assert err in done.stderr
    assert "Traceback" not in done.stderr
