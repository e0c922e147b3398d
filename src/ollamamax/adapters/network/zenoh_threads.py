"""Calls that may block, in threads that nobody has to wait for at the end."""

import asyncio
import threading
from collections.abc import Callable
from queue import Full, Queue
from typing import Any, Final, TypeVar

T = TypeVar("T")
_MAX_JOBS: Final = 1_024


async def in_thread(call: Callable[[], T], limit_s: float, too_late: Callable[[T], Any] | None = None) -> T:
    """What `call` gives or raises, or TimeoutError. A thread that is stuck does not keep the program from ending.

    too_late: gets, in a thread, the result that came when nobody waited any more.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - it is the caller's to see
            _call_soon(loop, fail, error)
        else:
            if not _call_soon(loop, succeed, result):
                dispose(result)

    def fail(error: BaseException) -> None:
        if not done.done():
            done.set_exception(error)

    def succeed(result: T) -> None:
        if done.done():
            dispose(result)
        else:
            done.set_result(result)

    def dispose(result: T) -> None:
        if too_late is not None:
            threading.Thread(target=too_late, args=(result,), daemon=True).start()

    threading.Thread(target=run, name="mesh-call", daemon=True).start()
    try:
        async with asyncio.timeout(limit_s):
            return await done
    except BaseException:
        if done.done() and not done.cancelled() and done.exception() is None:
            dispose(done.result())
        raise


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> bool:
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:  # the loop is closed
        return False
    return True


class Worker:
    """One thread that does small jobs in order; more than a thousand waiting are turned away."""

    def __init__(self) -> None:
        self._jobs: Queue[Callable[[], Any] | None] = Queue(_MAX_JOBS)
        self._is_closed = False
        threading.Thread(target=self._run, name="mesh-worker", daemon=True).start()

    def do(self, job: Callable[[], Any]) -> bool:
        """Have it done some time; False if there is too much to do. Jobs see to their errors themselves."""
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
            except Exception as error:  # noqa: BLE001 - it is the caller's to see
                _call_soon(loop, settle, None, error)
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

    def close(self) -> None:
        """End the thread after what it does now. Idempotent."""
        self._is_closed = True
        try:
            self._jobs.put_nowait(None)
        except Full:
            pass

    def _run(self) -> None:
        while not self._is_closed:
            job = self._jobs.get()
            if job is not None:
                job()
