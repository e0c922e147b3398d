"""OpenAI's embeddings, as Ollama reads and answers them. Arrays of token ids are refused, as there."""

import base64
import struct
from typing import Any, Final

from msgspec import Struct

from ollamamax.core.dialects.framing import encode
from ollamamax.core.dialects.reading import Fields, decode_object
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import EmbedRequest, EmbedResult

_EMBED: Final = frozenset({"model", "input", "dimensions", "encoding_format"})
_ENCODINGS: Final = ("", "float", "base64")


class Embeddings(Struct, frozen=True):
    """Texts to embed, and whether the vectors are told as base64 of little-endian float32."""

    request: EmbedRequest
    as_base64: bool = False


def embeddings(body: bytes) -> Embeddings:
    """A body of /v1/embeddings. Raises: BadRequest."""
    fields = Fields(decode_object(body, "EmbedRequest"), _EMBED, "EmbedRequest.")
    encoding = fields.text("encoding_format") or ""
    if encoding.lower() not in _ENCODINGS:
        raise BadRequest(f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64'].")
    request = EmbedRequest(
        model=fields.text("model") or "",
        inputs=_inputs(fields.any("input")),
        dimensions=fields.integer("dimensions") or 0,
    )
    return Embeddings(request, as_base64=encoding.lower() == "base64")


def _inputs(raw: Any) -> tuple[str, ...]:
    match raw:
        case None | []:
            raise BadRequest("invalid input")
        case str():
            return (raw,)
        case list() if all(isinstance(item, str) for item in raw):
            return tuple(raw)
    raise BadRequest("invalid input type")


def embedding_list(model: str, result: EmbedResult, as_base64: bool) -> bytes:
    """The reply of /v1/embeddings."""
    tell = _packed if as_base64 else tuple
    return encode(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": tell(vector), "index": index}
                for index, vector in enumerate(result.vectors)
            ],
            "model": model,
            "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
        }
    )


def _packed(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
