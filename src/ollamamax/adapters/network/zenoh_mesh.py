"""The Mesh over zenoh, with mutual TLS. Its traps: zenoh_config.py, zenoh_session.py, and docs/adr.

Deliberate limits: whoever has papers of the cluster can forge what others tell; see core/membership/detector.py.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, TypeVar

import structlog
import zenoh
from msgspec.structs import replace

from ollamamax.adapters.network import zenoh_config
from ollamamax.adapters.network.zenoh_inbox import Inbox
from ollamamax.adapters.network.zenoh_reach import reachable
from ollamamax.adapters.network.zenoh_session import ZenohSession
from ollamamax.adapters.network.zenoh_threads import Broken, Calls, Worker
from ollamamax.core.errors import PeerTimeout, PeerUnavailable
from ollamamax.ports import MeshConfig, MeshEvent, MeshRole

T = TypeVar("T")
_FAILURES: Final = (zenoh.ZError, TimeoutError, Broken)
_LOG: Final = structlog.get_logger(__name__)
_OPEN_S: Final = 30.0
_CLOSE_S: Final = 2.0
_PUT_S: Final = 5.0
_ANY_V6: Final = "[::]"
_LOOKS: Final = 3
_LOOK_AGAIN_S: Final = 0.1
_FIRST_RETRY_S: Final = 0.5
_LAST_RETRY_S: Final = 8.0


class ZenohMesh:
    """Made in the event loop. See ports: Mesh."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox()
        self._worker = Worker(self._failed)
        self._calls = Calls()
        self._session: ZenohSession | None = None
        self._lock = asyncio.Lock()
        """One open or close at a time."""
        self._retry: asyncio.Task[None] | None = None
        self._whole: Callable[[], bytes] | None = None
        self._hearing = threading.Lock()
        self._present: set[str] = set()
        """Whose tokens were told to stand."""
        self._is_closed = False

    async def open(self, config: MeshConfig) -> None:
        """See Mesh. Raises: PeerUnavailable."""
        await self._end_retry()
        async with self._lock:
            if self._is_closed:
                raise PeerUnavailable("the mesh was closed")
            if self._session is not None and _must_close_first(self._session.config, config):
                await self._close_session()
                self._miss(frozenset())
            try:
                await self._start(config)
            except _FAILURES as error:
                if config.role is MeshRole.ROUTER:
                    raise PeerUnavailable(f"can't listen on {config.listen}: {zenoh_config.reason(error)}") from None
                _LOG.info("no router of the mesh is reached yet", routers=config.connect)
                self._retry = self._loop.create_task(self._keep_trying(config))

    async def publish(self, data: bytes) -> None:
        """See Mesh. Raises: PeerTimeout."""
        session = self._session
        if session is not None:
            try:
                await self._worker.finish(lambda: session.put(data), _PUT_S)
            except TimeoutError:
                raise PeerTimeout("the mesh does not take what this node has to tell") from None
            except (zenoh.ZError, Broken) as error:
                self._failed(error)

    def answer(self, whole: Callable[[], bytes]) -> None:
        """See Mesh."""
        self._whole = whole

    async def ask(self, node_id: str = "", *, timeout_ms: float = 2_000.0) -> dict[str, bytes]:
        """See Mesh. Empty where there is no session."""
        session = self._session
        if session is None:
            return {}
        return await self._gathered(lambda: session.ask(node_id, timeout_ms / 1000), {}, timeout_ms)

    async def alive(self, *, timeout_ms: float = 2_000.0) -> frozenset[str]:
        """See Mesh. Empty where there is no session."""
        session = self._session
        if session is None:
            return frozenset()
        for _ in range(_LOOKS):
            found: frozenset[str] = await self._gathered(
                lambda: session.alive(timeout_ms / 1000), frozenset(), timeout_ms
            )
            with self._hearing:
                if found and self._present <= found:
                    break
            # zenoh answers with too few, now and then, while links come and go.
            await asyncio.sleep(_LOOK_AGAIN_S)
        return found

    async def events(self) -> AsyncGenerator[MeshEvent, None]:
        """See Mesh."""
        while (event := await self._inbox.get()) is not None:
            yield event

    async def close(self) -> None:
        """See Mesh."""
        self._is_closed = True
        await self._end_retry()
        async with self._lock:
            await self._close_session()
        self._inbox.close()
        await self._worker.close(_CLOSE_S)
        await self._calls.finish(_CLOSE_S)

    # --- sessions ---------------------------------------------------------------------------------------------

    async def _start(self, config: MeshConfig, by_scouting: bool = False) -> None:
        """Open a session, go over to it, close the former one. Raises: zenoh.ZError, TimeoutError."""
        if config.role is MeshRole.CLIENT and not by_scouting:
            config = await _best_first(config)
        session = await self._opened(config, by_scouting)
        if config.role is MeshRole.ROUTER and config.multicast and not session.config.multicast:
            _LOG.warning("multicast does not work here: `discover` will not find this node")
        former = self._session
        self._session = session
        if former is not None:
            former.mute()
        try:
            await self._calls.run(session.begin, _OPEN_S)
            if former is not None:
                await self._calls.run(session.settle, _OPEN_S)
                alive = await self.alive()
                if alive:
                    self._miss(alive)
        except BaseException:
            await self._close_session()
            raise
        finally:
            if former is not None:
                await self._ended(former)

    async def _opened(self, config: MeshConfig, by_scouting: bool) -> ZenohSession:
        """Where the machine has no multicast, or no IPv6, the mesh does without. Raises: zenoh.ZError, TimeoutError."""
        *more, last = _variants(config)
        for variant in more:
            try:
                return await self._session_of(variant, by_scouting)
            except (zenoh.ZError, Broken) as error:
                _LOG.debug("the mesh is opened more modestly", reason=zenoh_config.reason(error))
        return await self._session_of(last, by_scouting)

    async def _session_of(self, config: MeshConfig, by_scouting: bool) -> ZenohSession:
        return await self._calls.run(
            lambda: ZenohSession(config, self._hear, self._on_query, by_scouting=by_scouting),
            _OPEN_S,
            too_late=ZenohSession.close,
        )

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await self._ended(session)

    async def _ended(self, session: ZenohSession) -> None:
        session.mute()
        try:
            await self._calls.run(session.close, _CLOSE_S)
        except _FAILURES as error:
            _LOG.warning("a session of the mesh did not end well", reason=zenoh_config.reason(error))

    async def _keep_trying(self, config: MeshConfig) -> None:
        """Until a router answers: at the addresses that are known and, in turn, by multicast."""
        pause_s, by_scouting = _FIRST_RETRY_S, False
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LAST_RETRY_S)
            by_scouting = config.multicast and not by_scouting
            async with self._lock:
                try:
                    await self._start(config, by_scouting)
                except _FAILURES as error:
                    _LOG.debug("no router of the mesh is reached", reason=zenoh_config.reason(error))
                else:
                    return

    async def _end_retry(self) -> None:
        task, self._retry = self._retry, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # --- what is heard ----------------------------------------------------------------------------------------

    def _hear(self, event: MeshEvent) -> None:
        """In zenoh's threads."""
        with self._hearing:
            if event.alive is not None:
                (self._present.add if event.alive else self._present.discard)(event.node_id)
            self._inbox.put(event)

    def _miss(self, alive: frozenset[str]) -> None:
        """Nobody told of those that vanished between two sessions."""
        with self._hearing:
            missing = sorted(self._present - alive)
            self._present &= alive
            for node_id in missing:
                self._inbox.put(MeshEvent(node_id, False))

    # --- questions --------------------------------------------------------------------------------------------

    async def _gathered(self, gather: Callable[[], T], none: T, timeout_ms: float) -> T:
        try:
            return await self._calls.run(gather, timeout_ms / 1000 + 1.0)
        except _FAILURES as error:
            self._failed(error)
            return none

    def _failed(self, error: Exception) -> None:
        """From any thread. A session that broke is as good as lost: whoever reads the events opens another."""
        _LOG.debug("the mesh failed a call", reason=zenoh_config.reason(error))
        if isinstance(error, Broken):
            _LOG.error("the mesh broke", reason=zenoh_config.reason(error))
            self._miss(frozenset())

    def _on_query(self, query: Any) -> None:
        """In zenoh's thread: the answer is made in the event loop, and sent by the worker."""
        try:
            self._loop.call_soon_threadsafe(self._make_answer, query)
        except RuntimeError:  # the loop was closed meanwhile
            query.drop()

    def _make_answer(self, query: Any) -> None:
        session = self._session
        if self._whole is None or session is None:
            query.drop()
            return
        data = self._whole()
        if not self._worker.do(lambda: session.reply(query, data)):
            query.drop()


def _must_close_first(former: MeshConfig, config: MeshConfig) -> bool:
    """Two sessions can't listen on one port; and a removed node is to hear nothing, whatever becomes of the next."""
    both_listen = former.role is MeshRole.ROUTER and config.role is MeshRole.ROUTER
    return both_listen or former.denied != config.denied


def _variants(config: MeshConfig) -> list[MeshConfig]:
    """The configuration, and what may work where it does not."""
    if config.role is MeshRole.CLIENT:
        return [config]
    host, _, port = config.listen.rpartition(":")
    listens = [config.listen, f"0.0.0.0:{port}"] if host == _ANY_V6 else [config.listen]
    ways = [True, False] if config.multicast else [False]
    return [replace(config, listen=listen, multicast=multicast) for multicast in ways for listen in listens]


async def _best_first(config: MeshConfig) -> MeshConfig:
    """With the routers first that can be reached now: zenoh tries one after the other. Raises: TimeoutError if none."""
    found = await reachable(config.connect)
    if not found:
        raise TimeoutError
    return replace(config, connect=tuple(dict.fromkeys([*found, *config.connect])))
