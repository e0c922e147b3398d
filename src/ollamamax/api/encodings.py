"""Compressed request bodies: `Content-Encoding: zstd`, as some of OpenAI's clients send them.

Source: RFC 8878 (zstd); RFC 9659 (its window in HTTP: at most 8 MiB).
"""

import io
from typing import Final

import zstandard

from ollamamax.core.errors import BadRequest, BodyTooLarge

MAX_UNPACKED_BYTES: Final = 20 << 20
"""As in Ollama: a few bytes can stand for gigabytes."""
_MAX_WINDOW_BYTES: Final = 8 << 20


def unzstd(body: bytes, limit_bytes: int) -> bytes:
    """The content of all frames, at most `limit_bytes` and 20 MiB of it. Raises: BadRequest, BodyTooLarge."""
    limit_bytes = min(limit_bytes, MAX_UNPACKED_BYTES)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        with decompressor.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
            unpacked = reader.read(limit_bytes + 1)
    except zstandard.ZstdError as error:
        raise BadRequest(f"the body is no valid zstd: {error}") from None
    if len(unpacked) > limit_bytes:
        raise BodyTooLarge(f"the request's body exceeds the limit of {limit_bytes} bytes once it is unpacked")
    return unpacked
