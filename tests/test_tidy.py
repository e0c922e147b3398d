"""Style is a test: lengths, dead modules, words that do not belong, one home for each duty."""

import ast
import re
import subprocess
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/**/*.py"), *ROOT.glob("tools/**/*.py")]
)
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50

# Modules that something outside the import graph starts.
ENTRY_POINTS = {
    "ollamamax.cli.app",  # the console script
    "ollamamax.__main__",  # python -m ollamamax
    "ollamamax.adapters.engines.llamacpp_child",  # the engine's process
    "ollamamax.adapters.engines.gguf_child",  # the process that makes a GGUF
    "ollamamax.settings_docs",  # make docs
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_functions_are_short(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    long = [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


def test_every_module_is_reached() -> None:
    graph = grimp.build_graph("ollamamax")
    reached: set[str] = set()
    frontier = [module for module in ENTRY_POINTS if module in graph.modules]
    assert len(frontier) == len(ENTRY_POINTS), f"an entry point is gone: {ENTRY_POINTS - graph.modules}"
    while frontier:
        module = frontier.pop()
        if module in reached:
            continue
        reached.add(module)
        frontier.extend(graph.find_modules_directly_imported_by(module))
        if "." in module:
            frontier.append(module.rsplit(".", 1)[0])
    # The twins serve tests; everything else must be reached by a person who starts the program.
    dead = {module for module in graph.modules - reached if not module.startswith("ollamamax.testing")}
    assert not dead


def test_every_twin_is_used_by_a_test() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    twins = [path.stem for path in ROOT.glob("src/ollamamax/testing/*.py") if path.stem != "__init__"]
    unused = [name for name in twins if f"ollamamax.testing.{name}" not in text]
    assert not unused


def test_no_marks_of_unfinished_work() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in SOURCES
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert not found


def test_only_text_and_the_model_are_committed() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    binaries = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" in path.read_bytes()[:8192] and not name.endswith(".gguf"):
            binaries.append(name)
    assert not binaries
