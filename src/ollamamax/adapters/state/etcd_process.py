"""A member of etcd as a child of this node: started, followed, started again when it ends by itself, stopped."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from ollamamax.adapters.state import etcd_keeper
from ollamamax.adapters.state.etcd_flags import arguments, environment
from ollamamax.adapters.state.etcd_log import EtcdLog
from ollamamax.adapters.state.etcd_members import Members
from ollamamax.core.errors import OllamaMaxError, StateUnavailable, StoreError
from ollamamax.core.types import EtcdAccess, EtcdProgram, EtcdSpec, EtcdStatus

_FIRST_PAUSE_S: Final = 1.0
_LAST_PAUSE_S: Final = 30.0
_LONG_S: Final = 5.0
"""One that ran for so long begins with the shortest pause again."""
_GRACE_S: Final = 8.0
"""More than the keeper's."""
_ASK_S: Final = 0.1


class Child:
    """An EtcdProcess. Made by start(); stop() must be awaited in the end."""

    def __init__(self, program: EtcdProgram, spec: EtcdSpec, first_pause_s: float) -> None:
        self._program = program
        self._spec = spec
        self._log = EtcdLog(spec.name)
        self._first_pause_s = first_pause_s
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._trouble = "etcd is starting"
        self._pid = 0
        self.restarts = 0
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, program: EtcdProgram, spec: EtcdSpec, *, first_pause_s: float = _FIRST_PAUSE_S) -> "Child":
        """first_pause_s: before it is started again; doubles each time, up to 30 s.

        Raises: StoreError if its directory can't be made.
        """
        try:
            await asyncio.to_thread(_make_directory, Path(spec.data_dir))
        except OSError as error:
            raise StoreError(f"can't make {spec.data_dir} for etcd: {error.strerror}") from error
        child = cls(program, spec, first_pause_s)
        child._task = asyncio.create_task(child._run(), name="etcd")
        return child

    @property
    def pid(self) -> int:
        """etcd's process id; 0 while it does not run."""
        return self._pid

    @property
    def trouble(self) -> str:
        """Why it does not run now; "" while it does."""
        return self._trouble

    async def ready(self, timeout_ms: float) -> EtcdStatus:
        """Returns once it knows a leader. Raises: StateUnavailable after timeout_ms."""
        spec = self._spec
        access = EtcdAccess(endpoints=(spec.client_listen,), ca=spec.ca, certificate=spec.certificate, key=spec.key)
        members = await Members.open(access)
        reason = ""
        try:
            async with asyncio.timeout(timeout_ms / 1000.0):
                while True:
                    try:
                        if not self._trouble and (status := await members.status()).leader_id:
                            return status
                        reason = self._trouble or "its members have not chosen a leader yet"
                    except OllamaMaxError as error:
                        reason = str(error)
                    await asyncio.sleep(_ASK_S)
        except TimeoutError:
            told = self._log.cause()
            raise StateUnavailable(
                f"etcd on this node was not ready within {timeout_ms / 1000.0:g} s: {told or reason}"
            ) from None
        finally:
            await members.close()

    async def stop(self) -> None:
        """End it, gracefully if it lets us. Idempotent."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause_s, is_first = self._first_pause_s, True
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            begun_s = loop.time()
            self._trouble = await self._live(is_first)
            is_first = False
            if self._stopping.is_set():
                break
            if loop.time() - begun_s > _LONG_S:
                pause_s = self._first_pause_s
            self._log.ended(self._trouble, pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(pause_s * 2.0, _LAST_PAUSE_S)
            self.restarts += not self._stopping.is_set()
        self._trouble = "etcd was stopped"

    async def _live(self, is_first: bool) -> str:
        """One life of etcd. Returns: why it ended."""
        self._log.begin()
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(Path(etcd_keeper.__file__)),
                *arguments(self._program, self._spec, is_first=is_first),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment(),
                start_new_session=True,  # Ctrl-C in the node's terminal is for the node
            )
        except OSError as error:
            return f"it could not be started: {error.strerror}"
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        log = asyncio.create_task(self._log.follow(process.stderr))
        stopping = asyncio.create_task(self._stopping.wait())
        ending = asyncio.create_task(process.wait())
        try:
            told = await process.stdout.readline()
            if told:
                self._pid, self._trouble = int(told), ""
            await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
            process.stdin.close()
            await asyncio.wait((ending,), timeout=_GRACE_S)
        finally:
            code = await self._reap(process)
            stopping.cancel()
            await asyncio.wait((log, stopping, ending))
        return self._log.cause() or _reason(code)

    async def _reap(self, process: asyncio.subprocess.Process) -> int:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        code = await process.wait()
        pid, self._pid = self._pid, 0
        if code < 0 and pid and sys.platform != "linux":  # there nobody else ends it
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return code


def _make_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def _reason(code: int) -> str:
    number = -code if code < 0 else code - 128
    if number > 0:
        with suppress(ValueError):
            return f"etcd was killed by signal {signal.Signals(number).name}"
    return f"etcd ended with code {code}"
