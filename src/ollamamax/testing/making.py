"""Makes GGUFs in memory."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from msgspec import Struct

from ollamamax.core.errors import BadRequest, GgufError, Unsupported
from ollamamax.core.modelspec import assembly
from ollamamax.core.modelspec.assembly import Assembly, Planned
from ollamamax.core.modelspec.gguf_layout import aligned, layout
from ollamamax.core.modelspec.quantization import quantized
from ollamamax.core.types import GgufJob


class MemoryGguf(Struct):
    """Twin of a GGUF in the making."""

    assembly: Assembly
    sources: Mapping[str, bytes]

    @property
    def size_bytes(self) -> int:
        """Of the whole."""
        return self.assembly.size_bytes()

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The file; tensors of another type than in the source are all zeros."""
        yield self.assembly.header()
        for tensor in self.assembly.tensors:
            yield self._data(tensor).ljust(aligned(tensor.size_bytes), b"\0")

    def _data(self, tensor: Planned) -> bytes:
        if tensor.kind != tensor.source_kind:
            return bytes(tensor.size_bytes)
        return self.sources[tensor.file][tensor.offset : tensor.offset + tensor.source_bytes]


class MemoryGgufMaker:
    """Twin of the maker. read: what a path holds. It knows GGUFs alone. open_count: how many are being made."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self.open_count = 0

    @asynccontextmanager
    async def make(self, job: GgufJob) -> AsyncIterator[MemoryGguf]:
        """Raises: BadRequest, GgufError, Unsupported for anything but GGUFs."""
        sources = {name: self._read(path) for name, path in job.files.items()}
        try:
            layouts = {name: layout(data, len(data)) for name, data in sources.items()}
        except GgufError as error:
            raise Unsupported(f"only GGUFs are known here: {error}") from error
        if not layouts:
            raise BadRequest("no files provided to convert")
        made = assembly.of_ggufs(layouts)
        if job.quantize:
            made = quantized(made, next(iter(layouts.values())).facts, job.quantize)
        self.open_count += 1
        try:
            yield MemoryGguf(made, sources)
        finally:
            self.open_count -= 1
