"""What pulls and pushes need of a registry of models: Ollama's own, or any that speaks OCI's distribution protocol."""

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from msgspec import Struct

from ollamamax.core.types import ModelName

Body = Callable[[], AsyncGenerator[bytes, None]]
"""Opens what is to be sent; called anew for each attempt."""


class Remote(Struct, frozen=True):
    """A model in a registry. insecure: plain HTTP is allowed."""

    name: ModelName
    insecure: bool = False


class PartReply(Struct, frozen=True):
    """What a registry said to a part. session: where the next one goes.

    direct: "" if the part has arrived, else the URL that its bytes are to be put to.
    """

    session: str
    direct: str = ""


class Registry(Protocol):
    """Registries, by the host of a name. A session is an upload's URL, and opaque.

    All methods raise RegistryError: RegistryUnavailable where a repeat may help, RegistryDenied where it won't.
    """

    async def manifest(self, remote: Remote) -> bytes:
        """As it was stored. Raises: RegistryNotFound."""
        ...

    def read_blob(self, remote: Remote, digest: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to before `end`, not empty; a stream that ends without all of them raises.

        Raises: RangeIgnored if the registry only sends whole blobs and start is not 0, RegistryNotFound.
        """
        ...

    async def has_blob(self, remote: Remote, digest: str) -> bool:
        """Whether it is there whole."""
        ...

    async def begin_upload(self, remote: Remote, digest: str, mount_from: ModelName | None) -> str:
        """A new session; "" if nothing needs to be sent, as the blob was taken over from another model."""
        ...

    async def send_part(self, remote: Remote, session: str, body: Body, start: int, end: int) -> PartReply:
        """Send the blob's bytes from `start` to before `end`, not empty."""
        ...

    async def send_direct(self, remote: Remote, url: str, body: Body, size_bytes: int) -> None:
        """Put a part where the registry wants it. No credentials go there."""
        ...

    async def arrived(self, remote: Remote, session: str) -> tuple[int, str]:
        """How many bytes a session has, and where to go on. Raises: RegistryNotFound if the session is lost."""
        ...

    async def end_upload(self, remote: Remote, session: str, digest: str, etag: str) -> None:
        """The blob is whole. etag: "" or that of parts that went elsewhere."""
        ...

    async def put_manifest(self, remote: Remote, data: bytes, media_type: str) -> None:
        """The model is whole."""
        ...

    async def close(self) -> None:
        """End all connections. Idempotent."""
        ...
