"""The header of a GGUF that is made here: version 3, little-endian, aligned to 32 bytes.

Source: ggml `docs/gguf.md`.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from ollamamax.core.modelspec.gguf_layout import aligned, tensor_bytes

ALIGNMENT_KEY: Final = "general.alignment"
"""Left out of what is written: the alignment is the usual one."""

_VERSION: Final = 3
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def u32(value: int) -> bytes:
    """A count: type and value, as all of these."""
    return struct.pack("<II", _U32, value)


def f32(value: float) -> bytes:
    """A number."""
    return struct.pack("<If", _F32, value)


def boolean(value: bool) -> bytes:
    """Yes or no."""
    return struct.pack("<I?", _BOOL, value)


def text(value: str) -> bytes:
    """A text."""
    return struct.pack("<I", _STRING) + _string(value)


def texts(values: Sequence[str]) -> bytes:
    """An array of texts."""
    return struct.pack("<IIQ", _ARRAY, _STRING, len(values)) + b"".join(map(_string, values))


def i32s(values: Sequence[int]) -> bytes:
    """An array of whole numbers."""
    return struct.pack(f"<IIQ{len(values)}i", _ARRAY, _I32, len(values), *values)


def f32s(values: Sequence[float]) -> bytes:
    """An array of numbers."""
    return struct.pack(f"<IIQ{len(values)}f", _ARRAY, _F32, len(values), *values)


def header(pairs: Mapping[str, bytes], tensors: Sequence[tuple[str, int, tuple[int, ...]]]) -> bytes:
    """All up to the first tensor's data; the data of each, in this order, is padded with zeros to the alignment.

    pairs: key -> type and value.  tensors: (name, number of the ggml type, shape).
    """
    kept = {key: value for key, value in pairs.items() if key != ALIGNMENT_KEY}
    parts = [struct.pack("<4sIQQ", b"GGUF", _VERSION, len(tensors), len(kept))]
    parts += [_string(key) + value for key, value in kept.items()]
    offset = 0
    for name, kind, shape in tensors:
        parts.append(_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        offset += aligned(tensor_bytes(kind, shape))
    whole = b"".join(parts)
    return whole.ljust(aligned(len(whole)), b"\0")


def _string(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data
