"""The composition root: the only module that names adapters. Builds a node, runs it, takes it down in order."""

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import psutil
import structlog

from ollamamax import __version__
from ollamamax.adapters.engines.connector import Connector
from ollamamax.adapters.engines.llamacpp import LlamaCppLauncher
from ollamamax.adapters.identity.anonymous import AnonymousVerifier
from ollamamax.adapters.state.engine_book import FileEngineBook
from ollamamax.adapters.storage.builtin_model import BuiltinModel
from ollamamax.adapters.storage.locks import DirectoryLock
from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.adapters.system.clock import SystemClock, SystemDice
from ollamamax.adapters.system.machine import SystemMachine
from ollamamax.adapters.telemetry.logs import LogAudit, configure
from ollamamax.adapters.telemetry.metrics import PrometheusMeter
from ollamamax.api.app import create_app
from ollamamax.api.ports import ApiConfig
from ollamamax.api.readiness import NodeReadiness, Phase
from ollamamax.api.server import Listener, new_event_loop, serve
from ollamamax.core.errors import OllamaMaxError, StoreReadOnly
from ollamamax.core.resilience.admission import Admission
from ollamamax.core.resilience.breaker import BreakerConfig
from ollamamax.core.resilience.retry_budget import RetryBudget, RetryConfig
from ollamamax.core.routing.predict import RoutingConfig
from ollamamax.ports import Clock, Meter
from ollamamax.services.agent import AgentConfig, LocalAgent
from ollamamax.services.dispatch import DispatchConfig, Dispatcher
from ollamamax.services.fleet import Fleet, FleetConfig
from ollamamax.services.gateway import Gateway
from ollamamax.services.library import Library
from ollamamax.services.router import Router
from ollamamax.services.waiting import WaitingRoom
from ollamamax.settings import Loaded, Settings

_LOG: Final = structlog.get_logger("node")
_TINY: Final = Path(__file__).parent / "data" / "tiny" / "tiny.gguf"
_LOOPBACK: Final = ("127.", "::1", "localhost")


def run_node(loaded: Loaded, ready: Callable[[str], None] | None = None, exit_on_stdin_close: bool = False) -> int:
    """Run a node until SIGTERM, SIGINT or, if asked for, the end of standard input; then finish answers and stop.

    ready: called with the base url once the node answers.  Returns the exit code.
    Raises: OllamaMaxError if it can't start (port or directories in use, a damaged state file).
    """
    settings = loaded.settings
    configure(settings.log.level, json=settings.log.format == "json")
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_run(settings, ready, exit_on_stdin_close))
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    """What a task group was ended by."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(settings: Settings, ready: Callable[[str], None] | None, exit_on_stdin_close: bool) -> int:
    stop = _stop_event(exit_on_stdin_close)
    async with AsyncExitStack() as stack:
        _lock_directories(settings, stack)
        listener = await stack.enter_async_context(_node(settings))
        if ready is not None:
            ready(_base_url(settings.listen.host, listener.port))
        await stop.wait()
        _LOG.info("stopping", grace_s=settings.listen.shutdown_grace_s)
    return 0


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


def _lock_directories(settings: Settings, stack: AsyncExitStack) -> None:
    """One node per home and per store. A store that we may only read is used all the same.

    Raises: StoreInUse, StoreError.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    stack.enter_context(DirectoryLock(settings.home, "the home directory"))
    try:
        stack.enter_context(DirectoryLock(settings.models, "the model store"))
    except StoreReadOnly as error:
        _LOG.warning("the model store can only be read", reason=str(error))


@asynccontextmanager
async def _node(settings: Settings) -> AsyncGenerator[Listener, None]:
    """A serving node; on leaving it drains, then stops engines, connections and exporters."""
    clock, dice = SystemClock(), SystemDice()
    async with AsyncExitStack() as stack:
        meter = _meter(settings, clock, stack)
        store = OllamaStore(settings.models)
        library = Library(store, clock, prune=not settings.engine.noprune)
        await _prepare_store(settings, store, library, clock)
        launcher = LlamaCppLauncher(clock, dice)
        agent = LocalAgent(library, launcher, SystemMachine(), clock, dice, meter, _agent_config(settings))
        connector = Connector(clock, dice)
        stack.push_async_callback(connector.aclose)
        fleet = Fleet(agent, connector, FileEngineBook(settings.home), clock, dice, _fleet_config(settings))
        stack.push_async_callback(fleet.close)
        stack.push_async_callback(agent.close)
        await fleet.open()
        gateway = _gateway(settings, fleet, meter, clock)
        readiness = NodeReadiness(store.manifests)
        app = create_app(
            gateway=gateway,
            library=library,
            fleet=fleet,
            meter=meter,
            clock=clock,
            dice=dice,
            verifier=AnonymousVerifier(),
            readiness=readiness,
            version=__version__,
            config=_api_config(settings),
        )
        async with _running(agent, fleet):
            listener = await serve(app, settings.listen.host, settings.listen.port)
            readiness.phase = Phase.SERVING
            _calm_garbage_collector()
            try:
                yield listener
            finally:
                readiness.phase = Phase.DRAINING
                gateway.begin_drain()
                await listener.close(int(settings.listen.shutdown_grace_s * 1000))


def _calm_garbage_collector() -> None:
    """What start-up made lives as long as the node: not looked at again. Young objects are looked at less often.

    Requests free what they use by reference counts; cycles are rare, and collecting per 700 objects cost about 5 % of
    the CPU of a small request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@asynccontextmanager
async def _running(agent: LocalAgent, fleet: Fleet) -> AsyncGenerator[None, None]:
    """The two loops, for as long as the context; if one fails, the node ends with its error."""
    async with asyncio.TaskGroup() as tasks:
        loops = [tasks.create_task(agent.run(), name="agent"), tasks.create_task(fleet.run(), name="fleet")]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()


async def _prepare_store(settings: Settings, store: OllamaStore, library: Library, clock: Clock) -> None:
    """Remove waste, and offer `tiny` to a home that has not seen it. A store that can't be written is left alone."""
    builtin = BuiltinModel(_TINY, settings.home)
    try:
        if not settings.engine.noprune:
            for path in await store.prune(clock.wall_ns()):
                _LOG.info("removed what no model uses", path=path)
        if await builtin.is_due():
            await library.install_builtin(_TINY.stem, await builtin.digest(), builtin.body())
            await builtin.mark()
    except OllamaMaxError as error:
        _LOG.warning("the packaged model could not be put into the store", reason=str(error))


def _gateway(settings: Settings, fleet: Fleet, meter: Meter, clock: Clock) -> Gateway:
    router = Router(fleet, RoutingConfig())
    room = WaitingRoom(router, Admission(settings.queue.max_queue), meter, clock)
    budget = RetryBudget(
        RetryConfig(ratio=settings.routing.retry_ratio, min_per_window=settings.routing.retry_min_per_window)
    )
    limits = DispatchConfig(
        first_token_timeout_ms=settings.routing.first_token_timeout_s * 1000,
        load_timeout_ms=settings.engine.load_timeout_s * 1000,
        stall_timeout_ms=settings.routing.stall_timeout_s * 1000,
    )
    dispatcher = Dispatcher(router, budget, meter, clock, limits)
    return Gateway(router, room, dispatcher, LogAudit(), meter, clock)


def _meter(settings: Settings, clock: Clock, stack: AsyncExitStack) -> Meter:
    meter = PrometheusMeter(__version__)
    if not settings.telemetry.otlp_endpoint:
        return meter
    # Imported where it is asked for: the SDK costs 0.1 s at start.
    from ollamamax.adapters.telemetry.tracing import TracingMeter

    tracing = TracingMeter(meter, clock, settings.telemetry.otlp_endpoint, __version__, socket.gethostname())
    stack.push_async_callback(asyncio.to_thread, tracing.close)
    return tracing


def _agent_config(settings: Settings) -> AgentConfig:
    engine = settings.engine
    return AgentConfig(
        keep_alive_ms=engine.keep_alive_ms,
        max_loaded_models=engine.max_loaded_models,
        num_parallel=engine.num_parallel,
        context_length=engine.context_length,
        load_timeout_ms=engine.load_timeout_s * 1000,
        kv_cache_type=engine.kv_cache_type,
        flash_attention=engine.flash_attention,
        gpu_overhead_bytes=engine.gpu_overhead_bytes,
    )


def _fleet_config(settings: Settings) -> FleetConfig:
    routing = settings.routing
    breaker = BreakerConfig(failures=routing.breaker_failures, open_ms=routing.breaker_open_s * 1000)
    return FleetConfig(poll_ms=routing.poll_s * 1000, breaker=breaker)


def _api_config(settings: Settings) -> ApiConfig:
    listen = settings.listen
    interfaces = psutil.net_if_addrs().values()
    addresses = {address.address.split("%")[0] for group in interfaces for address in group}
    return ApiConfig(
        max_body_bytes=listen.max_body_bytes,
        body_timeout_ms=int(listen.body_timeout_s * 1000),
        stall_timeout_ms=int(settings.routing.stall_timeout_s * 1000),
        origins=tuple(listen.origins),
        loopback=listen.host.startswith(_LOOPBACK),
        local_hosts=frozenset({socket.gethostname(), *addresses}),
    )


def _base_url(host: str, port: int) -> str:
    """What clients on this machine can use; a listener on every interface is reached by loopback."""
    shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"
