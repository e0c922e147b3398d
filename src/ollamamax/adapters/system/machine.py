"""What memory this machine has for models: RAM within the limits of control groups, and GPUs as the engine sees them.

Devices are asked for in a short-lived process of its own, so that a driver's context costs the node no memory and a
driver's crash no node. Source: Linux `Documentation/admin-guide/cgroup-v2.rst`.

Deliberate limits: version 2 control groups only; integrated GPUs count only where there is no other.
"""

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import psutil
import structlog
from msgspec import Struct

_LOG: Final = structlog.get_logger(__name__)
_DEVICES_TIMEOUT_S: Final = 30.0
_ASK_DEVICES: Final = """
import json, xllamacpp
found = [(d["type"].name, d["memory_free"], d["memory_total"]) for d in xllamacpp.get_device_info()]
print(json.dumps([{"kind": k.rsplit("_", 1)[-1], "free_bytes": f, "total_bytes": t} for k, f, t in found]))
"""


class Device(Struct, frozen=True):
    """One device that the engine knows. kind: "CPU", "GPU", "IGPU" or "ACCEL"."""

    kind: str
    free_bytes: int
    total_bytes: int


class SystemMachine:
    """A MachineProbe. Methods may take as long as a process needs to start: call them in a thread.

    cgroups: where the file system of control groups is mounted.  own_cgroup: names that of this process.
    """

    def __init__(
        self,
        cgroups: Path = Path("/sys/fs/cgroup"),
        own_cgroup: Path = Path("/proc/self/cgroup"),
        python: str = sys.executable,
    ) -> None:
        self._cgroups = cgroups
        self._own_cgroup = own_cgroup
        self._python = python

    def free_memory_bytes(self) -> int:
        """Available RAM, or the free memory of all GPUs where there are any."""
        if self._gpus_at_first:
            return sum(gpu.free_bytes for gpu in _gpus(self._devices()))
        return max(min([psutil.virtual_memory().available, *(limit - used for limit, used in self._limits())]), 0)

    def total_memory_bytes(self) -> int:
        """All that a model may be spread over: RAM and, where they have memory of their own, GPUs."""
        ram_bytes = min([psutil.virtual_memory().total, *(limit for limit, _ in self._limits())])
        if sys.platform == "darwin":  # a GPU's memory is RAM
            return ram_bytes
        return ram_bytes + sum(gpu.total_bytes for gpu in self._gpus_at_first if gpu.kind == "GPU")

    def gpu_count(self) -> int:
        """GPUs that the engine will use."""
        return len(self._gpus_at_first)

    @functools.cached_property
    def _gpus_at_first(self) -> tuple[Device, ...]:
        return _gpus(self._devices())

    def _devices(self) -> tuple[Device, ...]:
        """What the engine finds now; nothing, and a warning, if it can't be asked."""
        try:
            asked = subprocess.run(
                [self._python, "-P", "-c", _ASK_DEVICES],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_DEVICES_TIMEOUT_S,
                check=True,
            )
            return msgspec.json.decode(asked.stdout.splitlines()[-1], type=tuple[Device, ...])
        except (OSError, subprocess.SubprocessError, IndexError, msgspec.DecodeError) as error:
            _LOG.warning("the engine could not be asked for GPUs", reason=str(error))
            return ()

    def _limits(self) -> Iterator[tuple[int, int]]:
        """(limit, used) in bytes of the process's control group and all above it that have a limit."""
        here = self._cgroups / _unified_path(self._own_cgroup)
        while True:
            limit, used = _count(here / "memory.max"), _count(here / "memory.current")
            if limit is not None and used is not None:
                yield limit, used - _cached_bytes(here / "memory.stat")
            if here == self._cgroups:
                return
            here = here.parent


def _gpus(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    discrete = tuple(device for device in devices if device.kind == "GPU")
    return discrete or tuple(device for device in devices if device.kind == "IGPU")


def _unified_path(own_cgroup: Path) -> str:
    """The path after `0::`; the root where there is none, or none that can be seen from here."""
    try:
        lines = own_cgroup.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    return "" if ".." in Path(path).parts else path


def _count(path: Path) -> int | None:
    """The number in a file; None if there is none ("max" is no limit)."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _cached_bytes(stat: Path) -> int:
    """Pages of files that can be dropped: they count as used, but not here."""
    try:
        pairs = (line.split() for line in stat.read_text(encoding="ascii").splitlines())
        return sum(int(value) for name, value in pairs if name in ("active_file", "inactive_file"))
    except (OSError, ValueError):
        return 0
