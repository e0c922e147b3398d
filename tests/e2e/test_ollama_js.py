"""The `ollama` client from npm against a real node and a real registry: each of its methods."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nodes import Node

from docker_registry import docker_registry

JS = Path(__file__).resolve().parent.parent / "clients/js"
SCRIPT = JS / "ollama_js.cjs"
TESTS = re.findall(r"^  async (\w+)\(\)", SCRIPT.read_text(encoding="utf-8"), re.M)
LIMIT_S = 180
ELSEWHERE = {"webSearch", "webFetch"}
"""They ask ollama.com, whatever the client's host is."""
INTERNAL = {"constructor", "processStreamableRequest", "fileExists"}
Run = Callable[..., str]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the packages of the lock file are. Where they can't be had the test is skipped, or fails if CI is set."""
    folder = tmp_path_factory.mktemp("js")
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(JS / name, folder)
    reason = ""
    if shutil.which("node") is None or shutil.which("npm") is None:
        reason = "node or npm is missing; on Debian or Ubuntu: apt-get install nodejs npm"
    else:
        command = ["npm", "ci", "--prefer-offline", "--ignore-scripts"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
        reason = f"npm ci: {done.stderr[-500:]}" if done.returncode else ""
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    return folder / "node_modules"


@pytest.fixture(scope="module")
def run(packages: Path, shared_node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Starts the script; fails with what it said unless all held."""
    with docker_registry(tmp_path_factory.mktemp("js-registry")) as port:
        environment = {
            **os.environ,
            "NODE_PATH": str(packages),
            "OLLAMA_URL": shared_node.url,
            "REGISTRY": f"127.0.0.1:{port}",
        }

        def start(argument: str) -> str:
            command = ["node", str(SCRIPT), argument]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
            assert done.returncode == 0, f"{done.stdout}{done.stderr}"
            return done.stdout

        yield start


@pytest.mark.parametrize("name", TESTS)
def test_methods(run: Run, name: str) -> None:
    run(name)


def test_no_method_is_left_out(run: Run) -> None:
    methods = set(run("--methods").split()) - INTERNAL - ELSEWHERE
    assert {"generate", "chat", "embed", "pull", "push", "abort"} <= methods
    used = set(re.findall(r"\bclient\.(\w+)\(", SCRIPT.read_text(encoding="utf-8")))
    assert not methods - used
