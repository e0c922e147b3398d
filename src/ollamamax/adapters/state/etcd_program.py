"""The etcd on this machine: where it lies, which version it is, and what to say if there is none that can be used."""

import asyncio
import platform
import re
import shutil
from pathlib import Path
from typing import Final

from ollamamax.core.errors import Unsupported
from ollamamax.core.types import EtcdProgram
from ollamamax.core.types.etcd import ETCD_MIN, ETCD_REFUSED

_VERSION: Final = re.compile(rb"etcd Version: (\d+)\.(\d+)\.(\d+)")
_TIMEOUT_S: Final = 20.0


async def find(path: str = "") -> EtcdProgram:
    """path: of the program, "" = the first one on PATH. Raises: Unsupported, which says what to do."""
    found = path or shutil.which("etcd") or ""
    if not found:
        raise Unsupported(f"etcd was not found on this machine. {_how_to_install()}")
    version = await _version(found)
    text = ".".join(map(str, version))
    if version in ETCD_REFUSED:
        raise Unsupported(
            f"etcd {text} ({found}) is refused: etcd 3.5.0 to 3.5.2 can lose or corrupt data when they are killed. "
            "Install 3.5.3 or newer, or 3.4."
        )
    if version < ETCD_MIN:
        raise Unsupported(f"etcd {text} ({found}) is too old: 3.4 or newer is needed. {_how_to_install()}")
    return EtcdProgram(found, text)


async def _version(path: str) -> tuple[int, ...]:
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise Unsupported(f"etcd can't be started as {path}: {error.strerror}. {_how_to_install()}") from error
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            told, _ = await process.communicate()
    except TimeoutError:
        raise Unsupported(f"{path} --version did not answer; is it etcd?") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    match = _VERSION.search(told)
    if match is None:
        raise Unsupported(f"{path} --version does not tell an etcd's version; is it etcd?")
    return tuple(int(part) for part in match.groups())


def _how_to_install() -> str:
    if platform.system() == "Darwin":
        return "Install it by: brew install etcd"
    if platform.system() == "Linux" and _has_apt():
        return (
            "Install it by: apt-get install etcd-server, and switch off the service that comes with it (systemctl "
            "disable --now etcd), for this node runs its own."
        )
    return "Take it from the releases page of etcd-io/etcd on GitHub, and put it on PATH."


def _has_apt() -> bool:
    return Path("/etc/debian_version").exists()
