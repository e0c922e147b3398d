"""This node's engines for other nodes: each request takes a slot in this node's own accounts, and goes no further.

Who asks has chosen this engine and watches the time; when it goes away the engine is cancelled.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog
from msgspec import Struct

from ollamamax.core.errors import EngineNotFound, EngineTimeout, EngineUnavailable, NodeBusy
from ollamamax.core.routing.predict import Sample
from ollamamax.core.types import ChatRequest, EngineModel, Principal, RequestContext
from ollamamax.ports import Caller, ChunkStream, Clock, PeerMethods
from ollamamax.services import peer_wire
from ollamamax.services.members import Lease, Member
from ollamamax.services.trip import Trip

_LOG: Final = structlog.get_logger(__name__)
_CLOSE_LIMIT_S: Final = 1.0


class HostFleet(Protocol):
    """What is needed of the Fleet."""

    mean_output_tokens: float

    def lease(self, engine_name: str, model_key: str, output_tokens: int) -> Lease:
        """A slot at an engine of this node. Raises: EngineNotFound, ModelNotFound, EngineUnavailable, ShuttingDown."""
        ...

    def responded(self, lease: Lease) -> None:
        """The first chunk came."""
        ...

    def succeeded(self, lease: Lease, sample: Sample) -> None:
        """Ends the lease: a whole answer."""
        ...

    def failed(self, lease: Lease, error: Exception) -> None:
        """Ends the lease: the engine failed."""
        ...

    def abandoned(self, lease: Lease) -> None:
        """Ends the lease: nobody waits for the answer any more."""
        ...

    def own_engines(self) -> list[Member]:
        """This node's own engine and those attached to it."""
        ...

    async def refresh(self, engine_id: str = "") -> None:
        """Ask an engine for its models, unless that was done just now."""
        ...


class EngineHostConfig(Struct, frozen=True, kw_only=True):
    """max_waiting: requests of other nodes whose first token is still to come; more are turned away.

    output_tokens: taken for the length of an answer before any was seen.  describe_ms: for an engine's answer about
    a model.
    """

    max_waiting: int = 256
    output_tokens: int = 256
    describe_ms: float = 2_500.0


class EngineHost:
    """Answers `engine.*`. ensure: brings a model, by its key, to this node's store.

    Raises (each method): what the fleet's lease() raises, BadRequest, NodeBusy, what engines raise.
    """

    def __init__(
        self,
        fleet: HostFleet,
        clock: Clock,
        config: EngineHostConfig | None = None,
        ensure: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._config = config or EngineHostConfig()
        self._ensure = ensure
        self._waiting = 0
        self._under_way = 0
        self._finished = asyncio.Event()

    def methods(self) -> PeerMethods:
        """For the peer listener."""
        return PeerMethods(
            unary={
                peer_wire.EMBED: self._embed,
                peer_wire.MODELS: self._models,
                peer_wire.DESCRIBE: self._describe,
            },
            streams={peer_wire.GENERATE: self._generate},
        )

    async def finish(self, limit_ms: float) -> None:
        """Returns when nothing is under way for other nodes, after that time at the latest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_ms / 1000):
                while self._under_way:
                    self._finished.clear()
                    await self._finished.wait()

    async def _generate(self, caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        ask = peer_wire.decode_ask(body, peer_wire.GenerateAsk)
        self._check_room()
        lease = self._fleet.lease(ask.engine, ask.model, self._tokens(ask.request))
        trip = self._trip(caller, peer_wire.GENERATE, ask.model)
        answer: ChunkStream = lease.member.engine.generate(ask.request, lease.served_as)
        failure: BaseException | None = None
        is_waiting = True
        self._waiting += 1
        self._under_way += 1
        try:
            await self._fetch(lease)
            async for read in answer:
                if not read:
                    continue
                if is_waiting:
                    is_waiting = False
                    self._waiting -= 1
                    trip.first_ms = self._clock.now_ms()
                    self._fleet.responded(lease)
                trip.chunks += len(read)
                lease.progress(len(read))
                if read[-1].done_reason:
                    trip.completed(read[-1], self._clock.now_ms())
                yield [peer_wire.encode_chunks(read)]
        except BaseException as error:
            failure = error
            raise
        finally:
            self._waiting -= is_waiting
            await self._end(trip, lease, answer, failure)

    async def _end(self, trip: Trip, lease: Lease, answer: ChunkStream, failure: BaseException | None) -> None:
        """Close the engine's stream, then give the slot back."""
        try:
            if failure is not None:
                async with asyncio.timeout(_CLOSE_LIMIT_S):
                    await answer.aclose()
        except TimeoutError:
            _LOG.warning("an engine's stream does not close", engine=lease.engine_id)
        finally:
            self._left()
            if trip.stats is not None:
                self._fleet.succeeded(lease, trip.sample(lease))
            else:
                self._close(lease, failure or EngineUnavailable("the engine closed the stream before its end"))

    async def _embed(self, caller: Caller, body: bytes) -> bytes:
        ask = peer_wire.decode_ask(body, peer_wire.EmbedAsk)
        self._check_room()
        lease = self._fleet.lease(ask.engine, ask.model, 0)
        self._waiting += 1
        self._under_way += 1
        try:
            await self._fetch(lease)
            result = await lease.member.engine.embed(ask.request, lease.served_as)
        except BaseException as error:
            self._close(lease, error)
            raise
        finally:
            self._waiting -= 1
            self._left()
        self._fleet.responded(lease)
        self._fleet.succeeded(lease, Sample(load_ms=0.0 if lease.was_loaded else result.load_ms))
        return peer_wire.encode_result(result)

    async def _models(self, caller: Caller, body: bytes) -> bytes:
        ask = peer_wire.decode_ask(body, peer_wire.EngineAsk)
        await self._fleet.refresh(ask.engine)
        member = self._member(ask.engine)
        if not member.reachable:
            raise EngineUnavailable(f"engine '{ask.engine}' can't be reached: {member.error}")
        return peer_wire.encode_models(tuple(member.offers().values()))

    async def _describe(self, caller: Caller, body: bytes) -> bytes:
        ask = peer_wire.decode_ask(body, peer_wire.EngineAsk)
        member = self._member(ask.engine)
        model: EngineModel | None = member.offers().get(ask.model)
        if model is None:
            return peer_wire.encode_description(None)
        try:
            async with asyncio.timeout(self._config.describe_ms / 1000):
                description = await member.engine.describe(model.served_as)
        except TimeoutError:
            raise EngineTimeout(f"engine '{ask.engine}' did not answer in time") from None
        return peer_wire.encode_description(description)

    def _member(self, engine_name: str) -> Member:
        for member in self._fleet.own_engines():
            if member.engine_id == engine_name:
                return member
        raise EngineNotFound(f"no engine named '{engine_name}' is attached here")

    def _check_room(self) -> None:
        if self._waiting >= self._config.max_waiting:
            raise NodeBusy(f"{self._waiting} requests of other nodes wait for a first token here already")

    def _left(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._finished.set()

    async def _fetch(self, lease: Lease) -> None:
        if lease.must_fetch and self._ensure is not None:
            await self._ensure(lease.key)

    def _close(self, lease: Lease, failure: BaseException) -> None:
        if isinstance(failure, Exception):
            self._fleet.failed(lease, failure)
        else:
            self._fleet.abandoned(lease)

    def _tokens(self, request: ChatRequest) -> int:
        """As the router guesses."""
        output = int(self._fleet.mean_output_tokens) or self._config.output_tokens
        limit = request.options.num_predict
        return limit if limit is not None and 0 < limit < output else output

    def _trip(self, caller: Caller, route: str, model: str) -> Trip:
        context = RequestContext(
            request_id="", route=route, principal=Principal(caller.node_id), arrived_ms=self._clock.now_ms()
        )
        return Trip(context, model)
