"""One node: its engines, its gateway, its part in the cluster, and the listener in front."""

import asyncio
import gc
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from ollamamax import __version__
from ollamamax.adapters.engines.connector import Connector
from ollamamax.adapters.engines.gguf_maker import ChildGgufMaker
from ollamamax.adapters.engines.llamacpp import LlamaCppLauncher
from ollamamax.adapters.identity.anonymous import AnonymousVerifier
from ollamamax.adapters.network.sockets import listening
from ollamamax.adapters.registry.late import LateRegistry
from ollamamax.adapters.state.engine_book import FileEngineBook
from ollamamax.adapters.storage.builtin_model import BuiltinModel
from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.adapters.system.clock import SystemClock, SystemDice
from ollamamax.adapters.system.machine import SystemMachine
from ollamamax.adapters.telemetry.logs import LogAudit, configure, set_level
from ollamamax.adapters.telemetry.metrics import PrometheusMeter
from ollamamax.api.app import App, create_app
from ollamamax.api.readiness import NodeReadiness, Phase
from ollamamax.api.server import Listener, serve
from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.resilience.admission import Admission
from ollamamax.core.resilience.retry_budget import RetryBudget
from ollamamax.core.routing.predict import RoutingConfig
from ollamamax.main.cluster import ClusterPart
from ollamamax.main.config import agent_config, api_config, dispatch_config, fleet_config, retry_config
from ollamamax.main.live_settings import LiveSettings
from ollamamax.main.loops import Loops
from ollamamax.main.parts import NodeParts
from ollamamax.ports import Clock, Dice, Meter, Registry
from ollamamax.services.agent import LocalAgent
from ollamamax.services.dispatch import Dispatcher
from ollamamax.services.fleet import Fleet
from ollamamax.services.gateway import Gateway
from ollamamax.services.library import Library
from ollamamax.services.router import Router
from ollamamax.services.waiting import WaitingRoom
from ollamamax.settings import Loaded, Settings

_LOG: Final = structlog.get_logger("node")
_TINY: Final = Path(__file__).parent.parent / "data" / "tiny" / "tiny.gguf"


@asynccontextmanager
async def node(own: Loaded, start_anew: Callable[[], None]) -> AsyncGenerator[Listener, None]:
    """A serving node; on leaving it drains, then stops engines, connections and exporters.

    own: what the machine says of its settings; the cluster's come below them.
    start_anew: called when the node has joined another cluster, in which it is to live from then on.
    """
    clock, dice = SystemClock(), SystemDice()
    async with AsyncExitStack() as stack:
        live = LiveSettings(own)
        part = None
        if own.settings.peer.is_on:
            part = await ClusterPart.open(own.settings, live, clock, dice, stack)
        settings = live.settings
        configure(settings.log.level, json=settings.log.format == "json")
        meter = _meter(settings, clock, stack)
        store = OllamaStore(settings.models)
        library = _library(settings, store, clock, dice, stack)
        await _prepare_store(settings, store, library, clock)
        machine = SystemMachine()
        agent = LocalAgent(library, LlamaCppLauncher(clock, dice), machine, clock, dice, meter, agent_config(settings))
        fleet = await _fleet(settings, agent, part, clock, dice, stack)
        gateway = _gateway(live, fleet, part, meter, clock)
        drains = [fleet.begin_drain, library.begin_drain]
        drains += [part.begin_drain] if part is not None else []
        readiness = NodeReadiness(store.manifests, drains)
        loops = await stack.enter_async_context(Loops())
        loops.start(agent.run(), "agent")
        loops.start(fleet.run(), "fleet")
        if part is not None:
            node_parts = NodeParts(
                agent=agent,
                fleet=fleet,
                gateway=gateway,
                library=library,
                store=store,
                machine=machine,
                is_draining=lambda: readiness.phase is Phase.DRAINING,
            )
            await part.enter(node_parts, loops, stack, start_anew)
        app = _app(live, part, gateway, library, fleet, meter, clock, dice, readiness)
        live.connect(agent_config, agent.reconfigure)
        live.connect(fleet_config, fleet.reconfigure)
        live.connect(lambda now: not now.engine.noprune, library.reconfigure)
        live.connect(lambda now: now.log.level, set_level)
        if part is not None:
            part.follow_settings()
        finish = _finish_nothing if part is None else part.finish
        async with _listening(settings, app, readiness, finish, clock) as listener:
            yield listener


def _app(
    live: LiveSettings,
    part: ClusterPart | None,
    gateway: Gateway,
    library: Library,
    fleet: Fleet,
    meter: Meter,
    clock: Clock,
    dice: Dice,
    readiness: NodeReadiness,
) -> App:
    """What answers to clients."""
    app = create_app(
        gateway=gateway,
        library=library if part is None else part.models,
        fleet=fleet,
        meter=meter,
        clock=clock,
        dice=dice,
        verifier=AnonymousVerifier(),
        readiness=readiness,
        cluster=None if part is None else part.cluster,
        placements=None if part is None else part.placement.placements,
        version=__version__,
        config=api_config(live.settings),
        settings=live,
        shared=None if part is None else part.shared,
        ha=None if part is None else part.ha,
    )
    live.connect(api_config, app.reconfigure)
    return app


@asynccontextmanager
async def _listening(
    settings: Settings,
    app: App,
    node: NodeReadiness,
    finish: Callable[[float], Awaitable[None]],
    clock: Clock,
) -> AsyncGenerator[Listener, None]:
    """In front of the node: says that it is ready; on leaving lets answers end before anything behind it does.

    finish: returns when those for other nodes have ended, after so many ms at the latest.
    """
    listener = await serve(app, await listening(settings.listen.host, settings.listen.port, "OLLAMA_HOST or --host"))
    node.phase = Phase.SERVING
    _calm_garbage_collector()
    try:
        yield listener
    finally:
        node.drain()
        over_ms = clock.now_ms() + settings.listen.shutdown_grace_s * 1000
        await listener.close(int(settings.listen.shutdown_grace_s * 1000))
        await finish(max(0.0, over_ms - clock.now_ms()))


async def _finish_nothing(limit_ms: float) -> None:
    """Of a node that stays alone."""


def _library(settings: Settings, store: OllamaStore, clock: Clock, dice: Dice, stack: AsyncExitStack) -> Library:
    """The store's models, and the registries that they come from. What it opens is closed by the stack."""

    def new_client() -> Registry:
        from ollamamax.adapters.registry.client import RegistryClient

        return RegistryClient(clock, dice, __version__, Path.home() / ".ollama" / "id_ed25519")

    registry = LateRegistry(new_client)
    stack.push_async_callback(registry.close)
    library = Library(store, registry, ChildGgufMaker(), clock, dice, prune=not settings.engine.noprune)
    stack.push_async_callback(library.close)
    return library


async def _fleet(
    settings: Settings, agent: LocalAgent, part: ClusterPart | None, clock: Clock, dice: Dice, stack: AsyncExitStack
) -> Fleet:
    """All engines; those of other nodes come later. What it opens is closed by the stack."""
    connector = Connector(clock, dice)
    stack.push_async_callback(connector.aclose)
    book = FileEngineBook(settings.home)
    if part is None:
        fleet = Fleet(agent, connector, book, clock, dice, fleet_config(settings))
    else:
        fleet = Fleet(agent, connector, book, clock, dice, fleet_config(settings), part.name, part.entry)
    stack.push_async_callback(fleet.close)
    stack.push_async_callback(agent.close)
    await fleet.open()
    return fleet


def _calm_garbage_collector() -> None:
    """What start-up made lives as long as the node: not looked at again. Young objects are looked at less often.

    Requests free what they use by reference counts; cycles are rare, and collecting per 700 objects cost about 5 % of
    the CPU of a small request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


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


def _gateway(live: LiveSettings, fleet: Fleet, part: ClusterPart | None, meter: Meter, clock: Clock) -> Gateway:
    settings = live.settings
    router = Router(fleet, RoutingConfig()) if part is None else Router(fleet, RoutingConfig(), part.assigned)
    admission = Admission(settings.queue.max_queue)
    room = WaitingRoom(router, admission, clock)
    budget = RetryBudget(retry_config(settings))
    ensure = None if part is None else part.ensure
    dispatcher = Dispatcher(router, budget, meter, clock, dispatch_config(settings), ensure)
    live.connect(lambda now: now.queue.max_queue, admission.reconfigure)
    live.connect(retry_config, budget.reconfigure)
    live.connect(dispatch_config, dispatcher.reconfigure)
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
