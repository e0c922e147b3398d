"""A node's process: signals, locks, and the node itself, anew when it has joined another cluster."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import structlog

from ollamamax.adapters.storage.locks import DirectoryLock
from ollamamax.adapters.telemetry.logs import configure
from ollamamax.api.server import new_event_loop
from ollamamax.core.errors import StoreReadOnly
from ollamamax.main.config import base_url
from ollamamax.main.node import node
from ollamamax.settings import Loaded, Settings, check_exposure

_LOG: Final = structlog.get_logger("node")
_SECRET: Final = "OLLAMAMAX_PEER__CA_PASSPHRASE"  # noqa: S105 - its name


def run_node(loaded: Loaded, ready: Callable[[str], None] | None = None, exit_on_stdin_close: bool = False) -> int:
    """Run a node until SIGTERM, SIGINT or, if asked for, the end of standard input; then finish answers and stop.

    ready: called with the base url once the node answers.  Returns the exit code.
    Raises: OllamaMaxError if it can't start (port or directories in use, a damaged state file).
    """
    settings = loaded.settings
    check_exposure(loaded)
    os.environ.pop(_SECRET, None)  # engine processes inherit the environment, and need not know it
    configure(settings.log.level, json=settings.log.format == "json")
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_run(loaded, ready, exit_on_stdin_close))
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    """What a task group was ended by."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(loaded: Loaded, ready: Callable[[str], None] | None, exit_on_stdin_close: bool) -> int:
    stop, settings = _stop_event(exit_on_stdin_close), loaded.settings
    async with AsyncExitStack() as stack:
        lock_directories(settings, stack)
        while not stop.is_set():
            anew = asyncio.Event()
            async with node(loaded, anew.set) as listener:
                if ready is not None:
                    ready(base_url(settings.listen.host, listener.port))
                    ready = None
                await _first_of(stop, anew)
                _LOG.info("stopping", grace_s=settings.listen.shutdown_grace_s, starts_anew=anew.is_set())
    return 0


async def _first_of(*events: asyncio.Event) -> None:
    """Returns once one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _stop_event(exit_on_stdin_close: bool) -> asyncio.Event:
    """Set by the first signal, or by the end of standard input. A second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(130)  # engines notice their closed lifeline
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    if exit_on_stdin_close:

        def watch() -> None:
            while os.read(0, 4096):
                continue
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=watch, name="stdin", daemon=True).start()
    return stop


def lock_directories(settings: Settings, stack: AsyncExitStack) -> None:
    """One node per home and per store. A store that we may only read is used all the same.

    Raises: StoreInUse, StoreError.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    stack.enter_context(DirectoryLock(settings.home, "the home directory"))
    try:
        stack.enter_context(DirectoryLock(settings.models, "the model store"))
    except StoreReadOnly as error:
        _LOG.warning("the model store can only be read", reason=str(error))
