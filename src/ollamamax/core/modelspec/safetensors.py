"""The header of a safetensors file: which tensors it holds, and where.

Layout: length of the header (64 bits, little-endian), a JSON object, the data. Source: huggingface/safetensors README.
"""

from math import prod
from typing import Any, Final

import msgspec
from msgspec import Struct

from ollamamax.core.errors import GgufError, GgufTruncated, GgufUnsupported
from ollamamax.core.modelspec.ggml_types import TENSOR_TYPES

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 100 << 20

_KINDS: Final = {"F32": 0, "F16": 1, "BF16": 30}
_METADATA: Final = "__metadata__"


class _Entry(Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class StoredTensor(Struct, frozen=True):
    """kind: number of its ggml type.  shape: outermost dimension first.  offset: from the start of the file."""

    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int


def header_bytes(start: bytes, file_bytes: int) -> int:
    """Length of the JSON after the first 8 bytes. start: those 8 bytes. Raises: GgufTruncated, GgufError."""
    if len(start) < LENGTH_BYTES:
        raise GgufTruncated("the safetensors file is cut off: it has no header")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        raise GgufError(f"not a safetensors file: it claims a header of {length} bytes")
    if LENGTH_BYTES + length > file_bytes:
        raise GgufTruncated("the safetensors file is cut off in its header")
    return length


def tensors(header: bytes, file_bytes: int) -> list[StoredTensor]:
    """What the JSON lists. file_bytes: of the whole file.

    Raises: GgufError for damage, GgufTruncated, GgufUnsupported for numbers of a type that is not known here.
    """
    try:
        listed: dict[str, Any] = msgspec.json.decode(header, type=dict[str, Any])
        listed.pop(_METADATA, None)
        entries = msgspec.convert(listed, dict[str, _Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GgufError(f"the safetensors file is damaged: its header can't be read: {error}") from error
    return [_tensor(name, entry, LENGTH_BYTES + len(header), file_bytes) for name, entry in entries.items()]


def _tensor(name: str, entry: _Entry, data_start: int, file_bytes: int) -> StoredTensor:
    kind = _KINDS.get(entry.dtype)
    if kind is None:
        raise GgufUnsupported(
            f"tensor {name[:80]!r} has numbers of the type {entry.dtype[:20]}; F32, F16 and BF16 can be converted"
        )
    start, end = entry.data_offsets
    if min(entry.shape, default=0) < 0 or start < 0 or end - start != prod(entry.shape) * TENSOR_TYPES[kind][2]:
        raise GgufError(f"the safetensors file is damaged: tensor {name[:80]!r} does not have the size of its shape")
    if data_start + end > file_bytes:
        raise GgufTruncated(f"the safetensors file is cut off: tensor {name[:80]!r} ends {data_start + end} bytes in")
    return StoredTensor(name, kind, entry.shape, data_start + start)
