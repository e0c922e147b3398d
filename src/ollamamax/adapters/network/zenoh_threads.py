"""Calls that may block, in threads.

Python ends a thread that comes back from zenoh while the program ends, and that aborts the program. So whoever is done
with zenoh waits a while for such threads; they are daemons all the same, so that one that hangs hinders nobody.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from queue import Full, Queue
from typing import Any, Final, TypeVar

T = TypeVar("T")
_MAX_JOBS: Final = 1_024
_LOOK_S: Final = 0.01


class Broken(Exception):
    """The library failed inside: what it was asked with can't be trusted any more."""


class Calls:
    """Calls of one owner."""

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()

    async def run(self, call: Callable[[], T], limit_s: float, too_late: Callable[[T], Any] | None = None) -> T:
        """What `call` gives or raises, or TimeoutError; the thread goes on then.

        too_late: gets, in a thread, the result that came when nobody waited any more.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it is the caller's to see
                _call_soon(loop, fail, _error(error))
            else:
                if not _call_soon(loop, succeed, result):
                    dispose(result)

        def fail(error: Exception) -> None:
            if not done.done():
                done.set_exception(error)

        def succeed(result: T) -> None:
            if done.done():
                dispose(result)
            else:
                done.set_result(result)

        def dispose(result: T) -> None:
            if too_late is not None:
                self._start(partial(too_late, result))

        self._start(work)
        try:
            async with asyncio.timeout(limit_s):
                return await done
        except BaseException:
            if done.done() and not done.cancelled() and done.exception() is None:
                dispose(done.result())
            raise

    async def finish(self, limit_s: float) -> None:
        """Wait so long for threads that still run. Whether all have ended is not told: nothing can be done about it."""
        await _wait_for(self._threads, limit_s)

    def _start(self, work: Callable[[], Any]) -> None:
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        thread = threading.Thread(target=work, name="mesh-call", daemon=True)
        thread.start()
        self._threads.add(thread)


def _error(raised: BaseException) -> Exception:
    """A panic of Rust code comes as something that would end the program."""
    return raised if isinstance(raised, Exception) else Broken(f"{type(raised).__name__}: {raised}"[:200])


async def _wait_for(threads: Iterable[threading.Thread], limit_s: float) -> None:
    """By looking: nothing that a thread could set comes after its end."""
    deadline = time.monotonic() + limit_s
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_S)


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> bool:
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:  # the loop is closed
        return False
    return True


class Worker:
    """One thread that does small jobs in order; more than a thousand waiting are turned away.

    failed: called in that thread with what a job raised that nobody waits for.
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._jobs: Queue[Callable[[], Any] | None] = Queue(_MAX_JOBS)
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="mesh-worker", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], Any]) -> bool:
        """Have it done some time; False if there is too much to do."""
        try:
            self._jobs.put_nowait(job)
        except Full:
            return False
        return True

    async def finish(self, job: Callable[[], T], limit_s: float) -> T:
        """Have it done, and wait for what it gives or raises. Raises: TimeoutError, also if there is too much to do."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - it is the caller's to see
                _call_soon(loop, settle, None, _error(error))
            else:
                _call_soon(loop, settle, result, None)

        def settle(result: Any, error: Exception | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        if not self.do(run):
            raise TimeoutError
        async with asyncio.timeout(limit_s):
            return await done

    async def close(self, limit_s: float) -> None:
        """End the thread after what it does now, and wait so long for it. Idempotent."""
        self._is_closed = True
        try:
            self._jobs.put_nowait(None)
        except Full:
            pass
        await _wait_for([self._thread], limit_s)

    def _run(self) -> None:
        while not self._is_closed:
            job = self._jobs.get()
            try:
                if job is not None:
                    job()
            except BaseException as error:  # noqa: BLE001 - the next job is to be done all the same
                self._failed(_error(error))
            # What a job refers to must not outlive it.
            del job
