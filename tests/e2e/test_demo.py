"""The first thing a person does: the demo, and the program's own clean ending."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from nodes import LIMIT_S, eventually


def environment(marker: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OLLAMA_", "OLLAMAMAX_"))}
    return {**inherited, "DEMO_TEST_MARKER": marker}


def marked(marker: str) -> list[psutil.Process]:
    """Processes whose environment carries the marker."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DEMO_TEST_MARKER") == marker and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def test_demo_once_answers_and_leaves_nothing_behind() -> None:
    marker = f"once-{os.getpid()}-{time.monotonic_ns()}"
    done = subprocess.run(
        [sys.executable, "-m", "ollamamax", "demo", "--once"],
        env=environment(marker),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said + done.stderr.decode()
    assert "OllamaMax" in said
    assert "http://127.0.0.1:" in said
    eventually("no process is left", lambda: not marked(marker))


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_demo_that_is_ended_takes_its_nodes_along(how: str) -> None:
    marker = f"{how}-{os.getpid()}-{time.monotonic_ns()}"
    demo = subprocess.Popen(
        [sys.executable, "-m", "ollamamax", "demo"],
        env=environment(marker),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        eventually("three nodes and an engine run", lambda: len(marked(marker)) >= 5)
    finally:
        getattr(demo, how)()
        demo.wait(timeout=LIMIT_S)
        assert demo.stdout is not None
        demo.stdout.close()
    eventually("no process is left", lambda: not marked(marker))
