"""What `engine.*` says between nodes: msgpack of the shared types. Chunks are arrays, vectors packed float32.

Unknown fields are ignored and missing ones get their defaults, so that a newer and an older program understand each
other as long as fields are only added, those of arrays at the end.
"""

import struct
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ollamamax.core.errors import BadRequest, PeerProtocol
from ollamamax.core.types import ChatRequest, Chunk, EmbedRequest, EmbedResult, EngineModel

GENERATE, EMBED, MODELS, DESCRIBE = "engine.generate", "engine.embed", "engine.models", "engine.describe"
T = TypeVar("T")


class GenerateAsk(Struct, frozen=True):
    """An answer of an engine of the node that is asked. engine: as that node calls it.  model: a model's key."""

    engine: str
    model: str
    request: ChatRequest


class EmbedAsk(Struct, frozen=True):
    """Vectors of an engine of the node that is asked. Fields as of GenerateAsk."""

    engine: str
    model: str
    request: EmbedRequest


class EngineAsk(Struct, frozen=True):
    """What an engine offers (model ""), or what it says of one model, by its key."""

    engine: str
    model: str = ""


class _Vectors(Struct, frozen=True):
    """An EmbedResult. vectors: little-endian float32 each, which is what they are rounded to."""

    vectors: tuple[bytes, ...]
    prompt_tokens: int = 0
    load_ms: float = 0.0


_encode = msgspec.msgpack.Encoder().encode
_chunks = msgspec.msgpack.Decoder(list[Chunk]).decode
_vectors = msgspec.msgpack.Decoder(_Vectors).decode
_models = msgspec.msgpack.Decoder(tuple[EngineModel, ...]).decode
_description: Callable[[bytes], dict[str, Any] | None] = msgspec.msgpack.Decoder(dict[str, Any] | None).decode
_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, struct.error)


def encode_ask(ask: GenerateAsk | EmbedAsk | EngineAsk) -> bytes:
    """A request's body."""
    return _encode(ask)


def decode_ask(body: bytes, kind: type[T]) -> T:
    """Raises: BadRequest."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except _FAILURES as error:
        raise BadRequest(f"another node asks for what can't be understood: {error}") from None


def encode_chunks(read: list[Chunk]) -> bytes:
    """One read of an answer: one frame."""
    return _encode(read)


def decode_chunks(frame: bytes) -> list[Chunk]:
    """Raises: PeerProtocol."""
    try:
        return _chunks(frame)
    except _FAILURES as error:
        raise _garbage(error) from None


def encode_result(result: EmbedResult) -> bytes:
    """Vectors."""
    packed = tuple([struct.pack(f"<{len(vector)}f", *vector) for vector in result.vectors])
    return _encode(_Vectors(packed, result.prompt_tokens, result.load_ms))


def decode_result(body: bytes) -> EmbedResult:
    """Raises: PeerProtocol."""
    try:
        told = _vectors(body)
        vectors = tuple([struct.unpack(f"<{len(packed) // 4}f", packed) for packed in told.vectors])
    except _FAILURES as error:
        raise _garbage(error) from None
    return EmbedResult(vectors, told.prompt_tokens, told.load_ms)


def encode_models(models: tuple[EngineModel, ...]) -> bytes:
    """What an engine offers."""
    return _encode(models)


def decode_models(body: bytes) -> tuple[EngineModel, ...]:
    """Raises: PeerProtocol."""
    try:
        return _models(body)
    except _FAILURES as error:
        raise _garbage(error) from None


def encode_description(description: dict[str, Any] | None) -> bytes:
    """What an engine says of a model."""
    return _encode(description)


def decode_description(body: bytes) -> dict[str, Any] | None:
    """Raises: PeerProtocol."""
    try:
        return _description(body)
    except _FAILURES as error:
        raise _garbage(error) from None


def _garbage(error: Exception) -> PeerProtocol:
    return PeerProtocol(f"its answer can't be understood: {error}")
