"""Calls to one of several etcd endpoints over gRPC: each within a deadline, and by another endpoint if one is lost."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ollamamax.adapters.state.etcd_errors import explained, unavailable
from ollamamax.adapters.state.etcd_rpc import Rpc, load
from ollamamax.core.errors import CertificateRefused, OllamaMaxError, StateElsewhere, StateError, StateUnavailable
from ollamamax.core.types import EtcdAccess

_TIMEOUT_MS: Final = 2_500.0
_NOTHING_DONE: Final = (StateElsewhere, CertificateRefused)
_MAX_MESSAGE_BYTES: Final = 64 << 20
_HAS_LEADER: Final = (("hasleader", "true"),)
"""Asks a member without a leader to say so at once, and to end a stream when it loses its leader."""


class EtcdClient:
    """Asks the endpoint that answered last. Made by open().

    timeout_ms: for a call as a whole. A call that may be repeated gets an equal part of it at each endpoint.
    """

    def __init__(self, rpc: Rpc, access: EtcdAccess, timeout_ms: float) -> None:
        self.pb = rpc.pb
        self._grpc = rpc.grpc
        self._access = access
        self._timeout_s = timeout_ms / 1000.0
        self._turn = 0
        self._channels: dict[str, Any] = {}
        self._retired: Any = None
        self._is_closed = False

    @classmethod
    async def open(cls, access: EtcdAccess, *, timeout_ms: float = _TIMEOUT_MS) -> "EtcdClient":
        """Nothing is reached yet. Raises: StateError if there is no endpoint."""
        if not access.endpoints:
            raise StateError("no endpoint of etcd was given")
        return cls(await load(), access, timeout_ms)

    @property
    def endpoint(self) -> str:
        """Whom the next call goes to."""
        return self._access.endpoints[self._turn % len(self._access.endpoints)]

    async def call(
        self,
        stub: str,
        method: str,
        request: Any,
        *,
        may_repeat: bool,
        needs_leader: bool = True,
        limit_ms: float = 0.0,
    ) -> Any:
        """One question, one answer. may_repeat: it may be carried out twice; else it is sent to another endpoint only
        if it was surely not carried out.  needs_leader: a member that has none is to say so at once.
        limit_ms: instead of the usual one.

        Raises: as explained() says. After StateUnavailable a write may have been carried out; not after StateElsewhere.
        """

        async def ask(channel: Any, timeout_s: float) -> Any:
            function = getattr(getattr(self.pb, stub + "Stub")(channel), method)
            return await function(request, timeout=timeout_s, metadata=_HAS_LEADER if needs_leader else None)

        return await self._try(ask, may_repeat, limit_ms / 1000.0 or self._timeout_s)

    async def keep_alive(self, lease_id: int) -> int:
        """Renew a lease. Returns: the seconds that it has now, 0 = it has ended."""

        async def ask(channel: Any, timeout_s: float) -> int:
            stream = self.pb.LeaseStub(channel).LeaseKeepAlive(timeout=timeout_s, metadata=_HAS_LEADER)
            try:
                await stream.write(self.pb.LeaseKeepAliveRequest(ID=lease_id))
                answer = await stream.read()
            finally:
                stream.cancel()
            if answer is self._grpc.aio.EOF:
                raise unavailable(self.endpoint, "it ended a call without an answer")
            return int(answer.TTL)

        return int(await self._try(ask, True, self._timeout_s))

    async def watch(self) -> tuple[Any, str]:
        """A stream of watches, and whom it goes to. Nothing is sent yet; whoever took it has to cancel() it.

        Raises: CertificateRefused, StateUnavailable.
        """
        endpoint = self.endpoint
        return self.pb.WatchStub(await self._open(endpoint)).Watch(metadata=_HAS_LEADER), endpoint

    async def turn_away(self, endpoint: str, failure: OllamaMaxError) -> None:
        """That endpoint is of no use now: the next call tries the next one. A channel mends itself by connecting anew,
        but keeps the certificates that it was made with."""
        if endpoint == self.endpoint:
            self._turn += 1
        if isinstance(failure, CertificateRefused) and (channel := self._channels.pop(endpoint, None)) is not None:
            former, self._retired = self._retired, channel  # who waits on it just now hears the same
            if former is not None:
                await former.close()

    def translated(self, error: BaseException, endpoint: str) -> OllamaMaxError | None:
        """The error for what a stream or a call raised; None if it is none of etcd's (a cancellation from outside)."""
        if isinstance(error, OllamaMaxError):
            return error
        if isinstance(error, self._grpc.aio.AioRpcError):
            return explained(error, endpoint)
        task = asyncio.current_task()
        was_dropped = isinstance(error, asyncio.CancelledError) and not (task and task.cancelling())
        if was_dropped or isinstance(error, self._grpc.aio.UsageError | asyncio.InvalidStateError):
            return unavailable(endpoint, "the connection was given up")  # by another call that failed over it
        return None

    async def close(self) -> None:
        """End all calls. Idempotent."""
        self._is_closed = True
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()
        if self._retired is not None:
            await self._retired.close()

    async def _try(self, ask: Callable[[Any, float], Any], may_repeat: bool, limit_s: float) -> Any:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + limit_s
        count = len(self._access.endpoints)
        for left in range(count, 0, -1):
            endpoint = self.endpoint
            channel = await self._open(endpoint)
            left_s = max(0.05, due_s - loop.time())
            try:
                return await ask(channel, left_s / left if may_repeat else left_s)
            except BaseException as error:
                failure = self.translated(error, endpoint)
                if failure is None:
                    raise
                if isinstance(failure, StateUnavailable | CertificateRefused):
                    await self.turn_away(endpoint, failure)
                    if left > 1 and loop.time() < due_s and (may_repeat or isinstance(failure, _NOTHING_DONE)):
                        continue
                raise failure from error
        raise AssertionError("the last round returns or raises")

    async def _open(self, endpoint: str) -> Any:
        if not self._is_closed and endpoint not in self._channels:
            credentials = await self._credentials()
            if not self._is_closed and endpoint not in self._channels:  # nobody else was faster
                self._channels[endpoint] = self._connected(endpoint, credentials)
        if self._is_closed:
            raise StateUnavailable("the cluster's state is closed")
        return self._channels[endpoint]

    async def _credentials(self) -> Any:
        access = self._access
        if not access.ca:
            return None
        try:
            ca, certificate, key = await asyncio.to_thread(
                lambda: tuple(
                    Path(path).read_bytes() if path else None for path in (access.ca, access.certificate, access.key)
                )
            )
        except OSError as error:
            raise CertificateRefused(
                f"can't read {error.filename}, which etcd is reached with: {error.strerror}"
            ) from error
        return self._grpc.ssl_channel_credentials(ca, key, certificate)

    def _connected(self, endpoint: str, credentials: Any) -> Any:
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1_000),  # also what a connection attempt may take
            ("grpc.max_reconnect_backoff_ms", 300),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 5_000),
        ]
        if credentials is None:
            return self._grpc.aio.insecure_channel(endpoint, options=options)
        if self._access.server_name:
            options.append(("grpc.ssl_target_name_override", self._access.server_name))
        return self._grpc.aio.secure_channel(endpoint, credentials, options=options)
