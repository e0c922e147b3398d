"""The loop that all streamed answers run through: bytes, pieces, chunks."""

from typing import Protocol

from ollamamax.adapters.engines.http import Reply, closed_early
from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.types import Chunk
from ollamamax.ports import ChunkStream


class Splitter(Protocol):
    """Cuts bytes into pieces."""

    def feed(self, data: bytes) -> list[bytes]:
        """Pieces that `data` completes."""
        ...

    def finish(self) -> list[bytes]:
        """What is left at the end."""
        ...


class Gatherer(Protocol):
    """Makes chunks of pieces."""

    @property
    def is_done(self) -> bool:
        """Whether the final chunk was given."""
        ...

    async def feed(self, pieces: list[bytes], chunks: list[Chunk]) -> None:
        """Append the chunks of the pieces of one read, those before a failure too."""
        ...

    def finish(self) -> list[Chunk]:
        """At the end of the stream: the final chunk, if the engine said enough for one."""
        ...


async def relay(name: str, reply: Reply, splitter: Splitter, gatherer: Gatherer) -> ChunkStream:
    """One list of chunks per read, as it comes. Raises: EngineUnavailable for a stream without an end."""
    chunks: list[Chunk] = []
    try:
        with reply:
            await reply.open()
            while data := await reply.read():
                await gatherer.feed(splitter.feed(data), chunks)
                if gatherer.is_done:
                    reply.settle()
                    break
                if chunks:
                    told, chunks = chunks, []
                    yield told
        if not gatherer.is_done:
            await gatherer.feed(splitter.finish(), chunks)
        if not gatherer.is_done:
            chunks += gatherer.finish()
        if not gatherer.is_done:
            raise closed_early(name)
    except OllamaMaxError:
        if chunks:  # what came in one read with the failure
            yield chunks
        raise
    yield chunks
