"""What one node needs of its machine, its engines and its store."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from msgspec import Struct

from ollamamax.core.types import (
    AttachedEngine,
    ChatRequest,
    Chunk,
    ClusterStatus,
    EmbedRequest,
    EmbedResult,
    EngineKind,
    EngineModel,
    GgufFacts,
    GgufJob,
    LaunchSpec,
    ModelName,
    Outcome,
    Principal,
)

ChunkStream = AsyncGenerator[list[Chunk], None]
"""Chunks in order, as many per item as came in one read. Closing the generator cancels down to the engine."""


class Clock(Protocol):
    """Time."""

    def now_ms(self) -> float:
        """Monotonic milliseconds, for durations and deadlines."""
        ...

    def wall_ns(self) -> int:
        """Unix time in nanoseconds, for what people see."""
        ...


class Dice(Protocol):
    """Chance, so that tests can seed it."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def token_hex(self, count: int) -> str:
        """`count` random bytes as hex; unpredictable in production."""
        ...


class Engine(Protocol):
    """Something that runs models, here or elsewhere. All methods may raise EngineError and its children."""

    @property
    def kind(self) -> EngineKind:
        """What stands behind it."""
        ...

    async def models(self) -> tuple[EngineModel, ...]:
        """What it offers now; doubles as the health probe.

        Raises: EngineUnavailable, EngineTimeout, EngineProtocol.
        """
        ...

    def generate(self, request: ChatRequest, served_as: str) -> ChunkStream:
        """Answer; the last chunk has a done_reason and stats. A stream that ends without one raises EngineUnavailable.

        `count_only`: one chunk that tells the prompt's tokens, or Unsupported where the engine can't count.
        `render_only`: one chunk whose text is the prompt, or Unsupported where the engine does not show it.
        Raises: EngineError (before or after the first chunk), Unsupported, InputTooLong.
        """
        ...

    async def embed(self, request: EmbedRequest, served_as: str) -> EmbedResult:
        """Raises: EngineError, Unsupported, InputTooLong."""
        ...

    async def describe(self, served_as: str) -> dict[str, Any] | None:
        """The engine's own /api/show answer for a model, or None where it has no such thing."""
        ...

    async def close(self) -> None:
        """Release connections; a child process is stopped (asked, then killed) and reaped. Idempotent."""
        ...


class RunningEngine(Engine, Protocol):
    """An engine process of our own."""

    @property
    def pid(self) -> int:
        """Process id of the child."""
        ...

    async def exited(self) -> str:
        """Returns when the process has ended, with a one-line reason; also after close()."""
        ...


class EngineLauncher(Protocol):
    """Starts engine processes."""

    async def launch(self, spec: LaunchSpec) -> RunningEngine:
        """Start and wait until it answers. Cancelling kills the half-started child. No time-out of its own.

        Raises: LoadFailed with the engine's own reason, GgufError.
        """
        ...


class EngineConnector(Protocol):
    """Makes the client of an attached engine; does not talk yet."""

    def connect(self, engine: AttachedEngine) -> Engine:
        """Raises: BadRequest for a url that can't be used."""
        ...


class EngineBook(Protocol):
    """Where attached engines are remembered across restarts."""

    async def load(self) -> tuple[AttachedEngine, ...]:
        """Raises: StoreError if what is there can't be read (it is left untouched)."""
        ...

    async def save(self, engines: tuple[AttachedEngine, ...]) -> None:
        """Replace all, atomically. Raises: StoreError."""
        ...


class StoredManifest(Struct, frozen=True):
    """A manifest as it lies in the store. digest: bare hex sha256 of `data`."""

    name: ModelName
    data: bytes
    digest: str
    modified_ns: int


class BlobPart(Struct, frozen=True):
    """A stretch of a blob that comes by itself. done_bytes: how many of its first bytes are here."""

    offset: int
    size_bytes: int
    done_bytes: int = 0


class PartedBlob(Protocol):
    """A blob whose parts come side by side. What has come survives the process, until commit() or a long time."""

    @property
    def parts(self) -> Sequence[BlobPart]:
        """All parts in order, as they are now; together they are the blob."""
        ...

    async def write(self, index: int, data: bytes | bytearray) -> None:
        """Append to a part, not beyond its end; one writer per part at a time. Raises: DiskFull, StoreError."""
        ...

    async def commit(self) -> bool:
        """All parts are done: verify, and be a blob. False if another writer brought the same blob first.

        Raises: DigestMismatch (what had come is removed), DiskFull, StoreError.
        """
        ...

    async def close(self) -> None:
        """What has come stays. Idempotent."""
        ...


class BlobStore(Protocol):
    """Models on disk in Ollama's layout. Digests are `sha256:<64 lower-case hex>`."""

    async def manifests(self) -> list[StoredManifest]:
        """All readable manifests, newest first."""
        ...

    async def manifest(self, name: ModelName) -> StoredManifest | None:
        """The one of that name, matched without regard to case; None if there is none."""
        ...

    async def put_manifest(self, name: ModelName, data: bytes) -> StoredManifest:
        """Write atomically; a name that exists in another casing keeps its casing. Raises: StoreError."""
        ...

    async def delete_manifest(self, name: ModelName) -> bool:
        """Remove it and the directories it leaves empty; False if there was none. Raises: StoreError."""
        ...

    async def blob_size(self, digest: str) -> int | None:
        """Bytes, or None if it is not here."""
        ...

    def blob_path(self, digest: str) -> str:
        """Absolute path where the blob is or would be."""
        ...

    async def read_blob(self, digest: str, limit_bytes: int = 4 << 20) -> bytes:
        """A small blob, whole. Raises: BlobNotFound, StoreError if larger than the limit."""
        ...

    def read_range(self, digest: str, offset: int, length: int = -1) -> AsyncGenerator[bytes, None]:
        """Pieces of 256 KiB at most, from `offset` on; length -1 = to the end.

        Raises: BlobNotFound, also for one that is shorter than the offset; StoreError.
        """
        ...

    async def write_blob(self, body: AsyncIterator[bytes], digest: str) -> bool:
        """Stream into a temporary file, verify, rename. False if it was there already (body unread).

        Raises: DigestMismatch, DiskFull, StoreError. Nothing remains of a failed write.
        """
        ...

    async def add_blob(self, body: AsyncIterator[bytes], size_bytes: int) -> tuple[str, bool]:
        """Stream in a blob whose digest nobody knows yet; (digest, newly created).

        size_bytes: what it will have, for the check of the room before the first byte.
        Raises: DiskFull, StoreError, and what body raises. Nothing remains of a failed write.
        """
        ...

    async def open_parts(self, digest: str, size_bytes: int, part_sizes: Sequence[int]) -> PartedBlob:
        """A blob to be written in parts; close it. One per digest at a time.

        What an earlier one left is gone on with, in the parts that it had; else the parts have these sizes.
        Raises: DiskFull, StoreError.
        """
        ...

    async def check_room(self, sizes_bytes: Mapping[str, int]) -> None:
        """Whether these blobs, by digest, will fit beside what has come of them already.

        Raises: DiskFull saying what is needed and what is free, StoreError.
        """
        ...

    async def put_bytes(self, data: bytes) -> tuple[str, bool]:
        """Store a small blob; (digest, newly created). Raises: StoreError."""
        ...

    async def delete_blob(self, digest: str) -> None:
        """Remove it if it is there. Raises: StoreError."""
        ...

    async def blobs(self) -> list[tuple[str, int, int]]:
        """(digest, size in bytes, modified_ns) of each whole blob."""
        ...

    async def used_blobs(self) -> frozenset[str]:
        """All digests that any manifest mentions.

        Raises: CorruptManifest if one can't be read, since what it needs is then unknown; StoreError.
        """
        ...

    async def gguf_facts(self, digest: str, whole_arrays: bool = False) -> GgufFacts:
        """Facts of a GGUF blob, cached by digest. whole_arrays: metadata with long arrays too, read anew each time.

        Raises: BlobNotFound, GgufError.
        """
        ...


class NewGguf(Protocol):
    """A GGUF in the making."""

    @property
    def size_bytes(self) -> int:
        """What the whole file will have."""
        ...

    def body(self) -> AsyncGenerator[bytes, None]:
        """The file, once. Raises: EngineError if the making of it breaks off."""
        ...


class GgufMaker(Protocol):
    """Makes one GGUF of files: merges parts, converts safetensors, quantises."""

    def make(self, job: GgufJob) -> AbstractAsyncContextManager[NewGguf]:
        """Entered once its size is known; on leaving it all work ends.

        Raises: BadRequest, Unsupported, GgufError, StoreError for what can't be made; EngineError.
        """
        ...


class MachineProbe(Protocol):
    """What this machine has. Methods may block for a while: call them in a thread."""

    def free_memory_bytes(self) -> int:
        """Memory that a new model may use: available RAM, or the sum of free device memory where there are GPUs."""
        ...

    def total_memory_bytes(self) -> int:
        """All that a model could be spread over, were nothing running: RAM, and device memory where there are GPUs."""
        ...

    def gpu_count(self) -> int:
        """Devices that engines will use; 0 = CPU only."""
        ...


class TokenVerifier(Protocol):
    """Credentials to a principal."""

    async def verify(self, authorization: str | None) -> Principal:
        """authorization: the header's value. Raises: Unauthenticated."""
        ...


class AuditSink(Protocol):
    """Where decisions about who may do what are kept."""

    def record(self, principal: Principal, action: str, subject: str, allowed: bool, rule: str) -> None:
        """Never raises, never blocks."""
        ...


class Meter(Protocol):
    """What is counted. Never raises, never blocks."""

    def outcome(self, outcome: Outcome) -> None:
        """One finished request."""
        ...

    def attempt_failed(self, engine_id: str, error_code: str) -> None:
        """One attempt that did not become the answer."""
        ...

    def load(self, model: str, duration_ms: float, error_code: str) -> None:
        """One model load; error_code "" if it succeeded."""
        ...

    def engine_exit(self, model: str) -> None:
        """An engine process ended without being asked."""
        ...

    def unload(self, model: str, reason: str) -> None:
        """A model left memory: "expired", "evicted", "asked", "reload", "shutdown"."""
        ...

    def queue(self, waiting: int, running: int) -> None:
        """Requests waiting for admission, and admitted, at this moment."""
        ...

    def loaded(self, models: Mapping[str, int]) -> None:
        """Bytes of memory by loaded model."""
        ...

    def cluster(self, status: ClusterStatus) -> None:
        """What this node sees of its cluster now."""
        ...

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        ...
