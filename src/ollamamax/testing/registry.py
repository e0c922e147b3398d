"""A registry of models in memory."""

import hashlib
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ollamamax.core.errors import RangeIgnored, RegistryError, RegistryNotFound
from ollamamax.core.types import ModelName
from ollamamax.ports import Body, PartReply, Remote

PIECE_BYTES = 1000
_DIRECT = "direct:"


class MemoryRegistry:
    """Twin of the client of registries; one registry for all hosts.

    Knobs: ranged: False sends blobs whole or not at all.  elsewhere: wants parts of uploads put to URLs of their own.
    faults: raised by the next questions, one each.  cuts: raised after so many bytes by the next bodies, read or sent.
    spoiled: blobs whose bytes are sent wrong.
    Records: asked: what was called, with digests and ranges.  read_bytes: of blobs, in all.  etags: of ended uploads.
    """

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.ranged = True
        self.elsewhere = False
        self.faults: deque[RegistryError] = deque()
        self.cuts: deque[tuple[int, RegistryError]] = deque()
        self.spoiled: set[str] = set()
        self.asked: list[tuple[str | int, ...]] = []
        self.etags: list[str] = []
        self.read_bytes = 0
        self._uploads: dict[str, dict[int, bytes]] = {}

    async def manifest(self, remote: Remote) -> bytes:
        """Raises: RegistryNotFound."""
        self._begin("manifest", remote.name.full)
        try:
            return self.manifests[remote.name.full][0]
        except KeyError:
            raise RegistryNotFound("404: MANIFEST_UNKNOWN") from None

    async def read_blob(self, remote: Remote, digest: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Pieces of 1000 bytes. Raises: RangeIgnored, RegistryNotFound, and the next cut."""
        self.asked.append(("read", digest, start, end))
        data = self._blob(remote.name, digest)
        if start and not self.ranged:
            raise RangeIgnored("this registry sends blobs whole or not at all")
        breaks_after, fault = self.cuts.popleft() if self.cuts else (end, None)
        for at in range(start, end, PIECE_BYTES):
            if fault is not None and at - start >= breaks_after:
                raise fault
            await self.wait_to_read()
            piece = data[at : min(at + PIECE_BYTES, end)]
            self.read_bytes += len(piece)
            yield bytes(len(piece)) if digest in self.spoiled else piece
        if fault is not None:
            raise fault

    async def wait_to_read(self) -> None:
        """Before each piece of a blob. Tests put something else here."""

    async def has_blob(self, remote: Remote, digest: str) -> bool:
        """Whether it is there."""
        self._begin("has", digest)
        return (_repository(remote.name), digest) in self.blobs

    async def begin_upload(self, remote: Remote, digest: str, mount_from: ModelName | None) -> str:
        """A session, or "" if the other model has the blob."""
        self._begin("begin", digest)
        if mount_from is not None and (data := self.blobs.get((_repository(mount_from), digest))) is not None:
            self.blobs[_repository(remote.name), digest] = data
            return ""
        session = f"session-{len(self._uploads)}"
        self._uploads[session] = {}
        return session

    async def send_part(self, remote: Remote, session: str, body: Body, start: int, end: int) -> PartReply:
        """Raises: the next cut."""
        self.asked.append(("send", session, start, end))
        upload = self._upload(session)
        if self.elsewhere:
            self._raise_fault()
            return PartReply(session, f"{_DIRECT}{session}:{start}")
        assert start == sum(map(len, upload.values())), "parts that go into the session come in order"
        breaks_after, fault = self.cuts.popleft() if self.cuts else (end, None)
        async with aclosing(body()) as pieces:
            async for piece in pieces:
                upload[start] = (upload.get(start, b"") + piece)[:breaks_after]
        if fault is not None:
            raise fault
        return PartReply(session)

    async def send_direct(self, remote: Remote, url: str, body: Body, size_bytes: int) -> None:
        """Raises: the next fault."""
        self.asked.append(("direct", url, size_bytes))
        _, session, start = url.split(":")
        async with aclosing(body()) as pieces:
            data = b"".join([piece async for piece in pieces])
        self._raise_fault()
        assert len(data) == size_bytes
        self._upload(session)[int(start)] = data

    async def arrived(self, remote: Remote, session: str) -> tuple[int, str]:
        """Raises: RegistryNotFound."""
        self._begin("arrived", session)
        return sum(map(len, self._upload(session).values())), session

    async def end_upload(self, remote: Remote, session: str, digest: str, etag: str) -> None:
        """Raises: RegistryError for other bytes than the digest's."""
        self._begin("end", digest)
        self.etags.append(etag)
        data = b"".join(piece for _, piece in sorted(self._upload(session).items()))
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise RegistryError("400: DIGEST_INVALID")
        self.blobs[_repository(remote.name), digest] = data
        del self._uploads[session]

    async def put_manifest(self, remote: Remote, data: bytes, media_type: str) -> None:
        """Keeps it."""
        self._begin("put", remote.name.full)
        self.manifests[remote.name.full] = data, media_type

    async def close(self) -> None:
        """Nothing is open."""

    def lose_uploads(self) -> None:
        """As after a restart: no session is known any more."""
        self._uploads.clear()

    def _begin(self, *what: str) -> None:
        self.asked.append(what)
        self._raise_fault()

    def _raise_fault(self) -> None:
        if self.faults:
            raise self.faults.popleft()

    def _blob(self, name: ModelName, digest: str) -> bytes:
        try:
            return self.blobs[_repository(name), digest]
        except KeyError:
            raise RegistryNotFound("404: BLOB_UNKNOWN") from None

    def _upload(self, session: str) -> dict[int, bytes]:
        try:
            return self._uploads[session]
        except KeyError:
            raise RegistryNotFound("404: BLOB_UPLOAD_UNKNOWN") from None


def _repository(name: ModelName) -> str:
    return f"{name.host}/{name.namespace}/{name.model}"
