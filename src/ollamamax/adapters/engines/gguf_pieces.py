"""The bytes of a GGUF that is assembled of files, piece by piece: read, put in order, converted by several threads."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from ollamamax.adapters.engines.gguf_native import Native, rows_of
from ollamamax.core.errors import GgufTruncated
from ollamamax.core.modelspec.assembly import Assembly, Planned
from ollamamax.core.modelspec.ggml_types import TENSOR_TYPES
from ollamamax.core.modelspec.gguf_layout import aligned

_PIECE_BYTES: Final = 4 << 20


def pieces(assembly: Assembly, files: Mapping[str, int], threads: int) -> Generator[bytes, None, None]:
    """The whole file. files: descriptors by name. Memory: a few pieces of 4 MiB per thread.

    Raises: Unsupported (before the first piece), GgufTruncated, OSError.
    """
    is_plain = all(tensor.kind == tensor.source_kind for tensor in assembly.tensors)
    native = None if is_plain else Native()
    yield assembly.header()
    with ThreadPoolExecutor(threads, "convert") as pool:
        for tensor in assembly.tensors:
            source = _read(tensor, files[tensor.file]) if tensor.file else iter([tensor.data])
            if tensor.kind == tensor.source_kind:
                yield from source
            else:
                assert native is not None, "there is something to convert"
                yield from _converted(tensor, source, native, pool, threads + 1)
            if padding := aligned(tensor.size_bytes) - tensor.size_bytes:
                yield bytes(padding)


def _converted(
    tensor: Planned, source: Iterator[bytes], native: Native, pool: ThreadPoolExecutor, ahead: int
) -> Generator[bytes, None, None]:
    """In the order of the source, so many pieces at a time."""
    width = rows_of(tensor.shape)[1]
    waiting: deque[Future[bytes]] = deque()
    for piece in source:
        waiting.append(pool.submit(native.convert, piece, tensor.source_kind, tensor.kind, width))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read(tensor: Planned, file: int) -> Generator[bytes, None, None]:
    """Whole rows of the tensor, so many at a time; of heads, whole ones, in llama.cpp's order."""
    rows, width = rows_of(tensor.shape)
    if tensor.heads and len(tensor.shape) == 1:  # a bias: a row for each number
        rows, width = width, 1
    _, block, block_bytes = TENSOR_TYPES[tensor.source_kind]
    row_bytes = width // block * block_bytes
    order: Callable[[bytes], bytes] | None = None
    at_once = max(1, _PIECE_BYTES // max(row_bytes, 1))
    if tensor.heads:
        at_once = rows // tensor.heads

        def order(data: bytes) -> bytes:
            return _interleaved(data, row_bytes)

    for start in range(0, rows, at_once):
        length = min(at_once, rows - start) * row_bytes
        data = _exactly(file, tensor, tensor.offset + start * row_bytes, length)
        yield order(data) if order is not None else data


def _interleaved(data: bytes, row_bytes: int) -> bytes:
    """Of one head: the first row of the first half, the first of the second half, the second ones, and so on."""
    half = len(data) // 2
    return b"".join(
        data[start + side : start + side + row_bytes] for start in range(0, half, row_bytes) for side in (0, half)
    )


def _exactly(file: int, tensor: Planned, offset: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length:
        part = os.pread(file, length, offset)
        if not part:
            raise GgufTruncated(f"{tensor.file} ends before tensor {tensor.name!r} does")
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
