"""The registries of a node that may never need one."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from ollamamax.core.types import ModelName
from ollamamax.ports import Body, PartReply, Registry, Remote


class LateRegistry:
    """Implements Registry by another one, made at the first use: what the client imports costs an idle node 10 MB."""

    def __init__(self, make: Callable[[], Registry]) -> None:
        self._make = make
        self._made: Registry | None = None

    @property
    def _registry(self) -> Registry:
        if self._made is None:
            self._made = self._make()
        return self._made

    async def manifest(self, remote: Remote) -> bytes:
        """As Registry."""
        return await self._registry.manifest(remote)

    async def read_blob(self, remote: Remote, digest: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """As Registry."""
        async with aclosing(self._registry.read_blob(remote, digest, start, end)) as pieces:
            async for piece in pieces:
                yield piece

    async def has_blob(self, remote: Remote, digest: str) -> bool:
        """As Registry."""
        return await self._registry.has_blob(remote, digest)

    async def begin_upload(self, remote: Remote, digest: str, mount_from: ModelName | None) -> str:
        """As Registry."""
        return await self._registry.begin_upload(remote, digest, mount_from)

    async def send_part(self, remote: Remote, session: str, body: Body, start: int, end: int) -> PartReply:
        """As Registry."""
        return await self._registry.send_part(remote, session, body, start, end)

    async def send_direct(self, remote: Remote, url: str, body: Body, size_bytes: int) -> None:
        """As Registry."""
        await self._registry.send_direct(remote, url, body, size_bytes)

    async def arrived(self, remote: Remote, session: str) -> tuple[int, str]:
        """As Registry."""
        return await self._registry.arrived(remote, session)

    async def end_upload(self, remote: Remote, session: str, digest: str, etag: str) -> None:
        """As Registry."""
        await self._registry.end_upload(remote, session, digest, etag)

    async def put_manifest(self, remote: Remote, data: bytes, media_type: str) -> None:
        """As Registry."""
        await self._registry.put_manifest(remote, data, media_type)

    async def close(self) -> None:
        """As Registry."""
        if self._made is not None:
            await self._made.close()
