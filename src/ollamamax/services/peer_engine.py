"""An engine of another node, as an Engine of this one."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from msgspec import Struct

from ollamamax.core.errors import (
    Busy,
    Denied,
    EngineProtocol,
    EngineTimeout,
    EngineUnavailable,
    NodeBusy,
    NodeNotFound,
    OllamaMaxError,
    PeerError,
    PeerProtocol,
    PeerTimeout,
    PeerVersion,
    Retry,
)
from ollamamax.core.modelspec import names
from ollamamax.core.types import ChatRequest, EmbedRequest, EmbedResult, EngineKind, EngineModel, NodeRecord
from ollamamax.ports import ChunkStream, PeerLink
from ollamamax.services import peer_wire


class PeerEngineConfig(Struct, frozen=True, kw_only=True):
    """probe_ms: for a short question.  silence_ms: without a sign of life of the node while it answers.

    embed_ms: for vectors; who asks for them has a limit of its own, mostly shorter.
    """

    probe_ms: float = 3_000.0
    silence_ms: float = 6_000.0
    embed_ms: float = 600_000.0


class PeerEngine:
    """record: of its node, as of now; NodeNotFound once it was removed.  engine_name: as that node calls it.

    All methods raise what the engine there raises, as it is. What goes wrong between the nodes becomes an EngineError
    that names the node; a node without room, NodeBusy: another engine may be asked.
    """

    def __init__(
        self,
        link: PeerLink,
        record: Callable[[], NodeRecord],
        engine_name: str,
        kind: EngineKind,
        config: PeerEngineConfig | None = None,
    ) -> None:
        self._link = link
        self._record = record
        self._name = engine_name
        self._kind = kind
        self._config = config or PeerEngineConfig()

    @property
    def kind(self) -> EngineKind:
        """What stands behind it there."""
        return self._kind

    async def models(self) -> tuple[EngineModel, ...]:
        """See Engine."""
        with _as_engine(self._record) as node:
            body = peer_wire.encode_ask(peer_wire.EngineAsk(self._name))
            answer = await self._link.call(node, peer_wire.MODELS, body, timeout_ms=self._config.probe_ms)
            return peer_wire.decode_models(answer)

    async def generate(self, request: ChatRequest, served_as: str) -> ChunkStream:
        """See Engine. served_as: not needed, since that node looks the model up by its key."""
        with _as_engine(self._record) as node:
            ask = peer_wire.GenerateAsk(self._name, names.key(request.model), request)
            frames: AsyncGenerator[list[bytes], None] = self._link.stream(
                node, peer_wire.GENERATE, peer_wire.encode_ask(ask), idle_ms=self._config.silence_ms
            )
            is_whole = False
            async with aclosing(frames):
                async for batch in frames:
                    chunks = peer_wire.decode_chunks(batch[0])
                    for frame in batch[1:]:
                        chunks += peer_wire.decode_chunks(frame)
                    is_whole = bool(chunks) and bool(chunks[-1].done_reason)
                    yield chunks
            if not is_whole:
                raise EngineUnavailable(f"node {node.name}: engine '{self._name}' closed the stream before its end")

    async def embed(self, request: EmbedRequest, served_as: str) -> EmbedResult:
        """See Engine."""
        with _as_engine(self._record) as node:
            body = peer_wire.encode_ask(peer_wire.EmbedAsk(self._name, names.key(request.model), request))
            answer = await self._link.call(node, peer_wire.EMBED, body, timeout_ms=self._config.embed_ms)
            return peer_wire.decode_result(answer)

    async def describe(self, served_as: str) -> dict[str, Any] | None:
        """See Engine."""
        with _as_engine(self._record) as node:
            body = peer_wire.encode_ask(peer_wire.EngineAsk(self._name, names.key(served_as)))
            answer = await self._link.call(node, peer_wire.DESCRIBE, body, timeout_ms=self._config.probe_ms)
            return peer_wire.decode_description(answer)

    async def close(self) -> None:
        """Nothing is held: the connections are the link's."""


@contextmanager
def _as_engine(record: Callable[[], NodeRecord]) -> Iterator[NodeRecord]:
    """The node; what goes wrong on the way to it becomes an engine's error."""
    try:
        node = record()
    except NodeNotFound as error:
        raise EngineUnavailable(str(error)) from None
    try:
        yield node
    except PeerTimeout as error:
        raise EngineTimeout(_named(node, error)) from None
    except (PeerProtocol, PeerVersion) as error:
        raise EngineProtocol(_named(node, error)) from None
    except (PeerError, Denied) as error:
        raise EngineUnavailable(_named(node, error)) from None
    except Busy as error:
        if error.retry is Retry.OTHER_ENGINE:
            raise
        raise NodeBusy(f"node {node.name} has no room: {error}") from None


def _named(node: NodeRecord, error: OllamaMaxError) -> str:
    text = str(error)
    return text if node.name in text else f"node {node.name}: {text}"
