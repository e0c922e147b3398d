import stat
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ollamamax.adapters.system.machine import SystemMachine

GIB = 1 << 30


@pytest.fixture
def fake_python(tmp_path: Path) -> Callable[[str], str]:
    """Makes an interpreter that prints what it is told, whatever it is asked."""

    def make(shown: str, code: int = 0) -> str:
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}\nEND\nexit {code}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return str(script)

    return make


def group(root: Path, name: str, **files: object) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in files.items():
        (folder / file.replace("_", ".", 1)).write_text(f"{value}\n")
    return folder


def limited(root: Path, own: str, python: str = sys.executable) -> SystemMachine:
    (root / "own").write_text(f"4:memory:/other\n0::/{own}\n")
    return SystemMachine(root, root / "own", python)


def test_the_real_machine() -> None:
    machine = SystemMachine()
    assert 0 < machine.free_memory_bytes() <= machine.total_memory_bytes()
    assert machine.gpu_count() >= 0
    if machine.gpu_count() == 0:
        assert machine.total_memory_bytes() <= psutil.virtual_memory().total


def test_a_control_group_limits_memory(tmp_path: Path) -> None:
    group(tmp_path, "a/b", memory_max=3_000_000, memory_current=1_000_000)
    machine = limited(tmp_path, "a/b")
    assert machine.total_memory_bytes() == 3_000_000
    assert machine.free_memory_bytes() == 2_000_000


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    group(tmp_path, "a/b", memory_max="max", memory_current=1_000_000)
    group(tmp_path, "a", memory_max=5_000_000, memory_current=4_500_000)
    group(tmp_path, "", memory_max=4_000_000, memory_current=1_000_000)
    machine = limited(tmp_path, "a/b")
    assert machine.total_memory_bytes() == 4_000_000
    assert machine.free_memory_bytes() == 500_000


def test_cached_files_are_free(tmp_path: Path) -> None:
    stat_lines = "anon 100\ninactive_file 200000\nactive_file 300000\nshmem 5"
    group(tmp_path, "a", memory_max=3_000_000, memory_current=1_000_000, memory_stat=stat_lines)
    assert limited(tmp_path, "a").free_memory_bytes() == 2_500_000


def test_a_full_group_has_nothing_free(tmp_path: Path) -> None:
    group(tmp_path, "a", memory_max=3_000_000, memory_current=3_500_000)
    assert limited(tmp_path, "a").free_memory_bytes() == 0


@pytest.mark.parametrize("own", ["", "../../elsewhere", "not/there"])
def test_groups_that_cannot_be_seen(tmp_path: Path, own: str) -> None:
    group(tmp_path, "", memory_max=3_000_000, memory_current=1_000_000)
    assert limited(tmp_path, own).total_memory_bytes() == 3_000_000


def test_no_control_groups(tmp_path: Path) -> None:
    machine = SystemMachine(tmp_path / "none", tmp_path / "none" / "own")
    assert machine.total_memory_bytes() >= psutil.virtual_memory().total


def test_gpus(tmp_path: Path, fake_python: Callable[[str], str]) -> None:
    group(tmp_path, "", memory_max=4 * GIB, memory_current=GIB)
    devices = ", ".join(
        f'{{"kind": "{kind}", "free_bytes": {free * GIB}, "total_bytes": {total * GIB}}}'
        for kind, free, total in (("GPU", 5, 8), ("GPU", 7, 8), ("IGPU", 1, 2), ("CPU", 2, 4))
    )
    machine = limited(tmp_path, "", fake_python(f"a driver's greeting\n[{devices}]"))
    assert machine.gpu_count() == 2
    assert machine.free_memory_bytes() == 12 * GIB
    if sys.platform != "darwin":
        assert machine.total_memory_bytes() == 20 * GIB


def test_an_integrated_gpu_shares_ram(tmp_path: Path, fake_python: Callable[[str], str]) -> None:
    group(tmp_path, "", memory_max=4 * GIB, memory_current=GIB)
    machine = limited(tmp_path, "", fake_python('[{"kind": "IGPU", "free_bytes": 100, "total_bytes": 200}]'))
    assert machine.gpu_count() == 1
    assert machine.free_memory_bytes() == 100
    assert machine.total_memory_bytes() == 4 * GIB


@pytest.mark.parametrize("shown", ["", "not JSON", '[{"kind": 1}]'])
def test_an_engine_that_cannot_tell(tmp_path: Path, fake_python: Callable[[str], str], shown: str) -> None:
    machine = SystemMachine(tmp_path, tmp_path / "own", fake_python(shown))
    assert machine.gpu_count() == 0
    assert machine.free_memory_bytes() > 0


def test_no_interpreter(tmp_path: Path) -> None:
    assert SystemMachine(python=str(tmp_path / "none")).gpu_count() == 0
