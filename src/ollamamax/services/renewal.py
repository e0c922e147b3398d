"""Keeps this node's certificate fresh: renewed at half of its life, and again and again where that fails."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from ollamamax.core.errors import CertificateRefused, OllamaMaxError
from ollamamax.ports import Clock, Dice, Identity, IdentityStore, NodeKeys

_LOG: Final = structlog.get_logger(__name__)
_DUE_SHARE: Final = 0.5
_SPREAD_SHARE: Final = 0.1
"""Of a certificate's validity: so long before its end it is due, and so much later at most, each node at its time."""
_FIRST_RETRY_MS: Final = 30_000.0
_LAST_RETRY_MS: Final = 600_000.0
_PACE_MS: Final = 3_600_000.0
"""Between two renewals at least, also when this machine's clock says that the new one is old already."""
_LOOK_MS: Final = 60_000.0
"""The wall clock may jump, and machines sleep: it is looked at that often."""
_ALARM_NS: Final = 86_400 * 10**9


class CertificateSource(Protocol):
    """Where certificates come from: services/issuing.py."""

    @property
    def signs_here(self) -> bool:
        """Whether this node has the authority's key."""
        ...

    async def own_certificate(self, request: bytes) -> bytes:
        """A new certificate (PEM) for this node's own key. Raises: OllamaMaxError."""
        ...


def require_current(keys: NodeKeys, now_ns: int) -> None:
    """Raises: CertificateRefused if the papers are of no use by this machine's clock, with the remedy."""
    if now_ns >= keys.expires_ns:
        raise CertificateRefused(
            f"this node's certificate expired on {_date(keys.expires_ns)}: make a token on another node of the cluster "
            "(`ollamamax token create`) and join anew with it (`ollamamax join TOKEN`); if that date is still to come, "
            "this machine's clock is wrong"
        )
    if now_ns < keys.not_before_ns:
        raise CertificateRefused(
            f"this node's certificate is valid from {_date(keys.not_before_ns)} on, and by this machine's clock it is "
            f"{_date(now_ns)}: set the clock right"
        )


class Renewal:
    """One loop, run(); `start` before papers are used.

    on_renewed: awaited with the new papers, which are on disk by then; if it fails it is called again later.
    """

    def __init__(
        self,
        store: IdentityStore,
        identity: Identity,
        source: CertificateSource,
        on_renewed: Callable[[NodeKeys], Awaitable[None]],
        clock: Clock,
        dice: Dice,
    ) -> None:
        self._store = store
        self._keys = identity.keys
        self._source = source
        self._on_renewed = on_renewed
        self._clock = clock
        self._dice = dice
        self._spread = dice.random()
        self._failures = 0
        self._retry_at_ms = 0.0
        self._is_told = True

    @property
    def keys(self) -> NodeKeys:
        """The newest papers."""
        return self._keys

    @property
    def due_ns(self) -> int:
        """When they will be renewed, in Unix nanoseconds."""
        share = _DUE_SHARE - _SPREAD_SHARE * self._spread
        return self._keys.expires_ns - int((self._keys.expires_ns - self._keys.not_before_ns) * share)

    async def start(self) -> NodeKeys:
        """Papers to begin with. Expired ones are renewed at once by the node that signs itself.

        Raises: CertificateRefused if they are of no use and it is not.
        """
        try:
            require_current(self._keys, self._clock.wall_ns())
        except CertificateRefused:
            if not self._source.signs_here:
                raise
            await self._renew()
            self._is_told = True  # nobody has the old ones
        return self._keys

    async def run(self) -> None:
        """Renew when it is time, until cancelled."""
        while True:
            wait_ms = await self.step()
            await asyncio.sleep(min(wait_ms, _LOOK_MS) / 1000.0)

    async def step(self) -> float:
        """Do what is due now. Returns: after how many ms there is something to do again."""
        now_ns, now_ms = self._clock.wall_ns(), self._clock.now_ms()
        is_due = now_ns >= self.due_ns
        if not is_due and self._is_told:
            return (self.due_ns - now_ns) / 1e6
        if now_ms < self._retry_at_ms:
            return self._retry_at_ms - now_ms
        try:
            if is_due:
                await self._renew()
            await self._on_renewed(self._keys)
        except OllamaMaxError as error:
            return self._failed(error)
        self._is_told = True
        self._failures = 0
        self._spread = self._dice.random()
        self._retry_at_ms = self._clock.now_ms() + _PACE_MS
        _LOG.info("certificate renewed", expires=_date(self._keys.expires_ns))
        return max((self.due_ns - self._clock.wall_ns()) / 1e6, _PACE_MS)

    async def _renew(self) -> None:
        """Raises: OllamaMaxError."""
        certificate = await self._source.own_certificate(self._store.request(self._keys.private_key))
        fresh = self._store.bind(self._keys.private_key, certificate, self._keys.ca)
        require_current(fresh, self._clock.wall_ns())
        self._keys = (await asyncio.to_thread(self._store.replace_certificate, certificate)).keys
        self._is_told = False

    def _failed(self, error: OllamaMaxError) -> float:
        """Log it as loudly as it matters, and wait longer each time."""
        pause_ms = min(_FIRST_RETRY_MS * 2.0 ** min(self._failures, 10), _LAST_RETRY_MS)
        pause_ms *= 0.75 + 0.5 * self._dice.random()
        self._failures += 1
        self._retry_at_ms = self._clock.now_ms() + pause_ms
        left_ns = self._keys.expires_ns - self._clock.wall_ns()
        told = {"reason": str(error), "expires": _date(self._keys.expires_ns), "attempts": self._failures}
        if left_ns <= 0:
            _LOG.critical(
                "the certificate has expired: other nodes refuse this one; join anew with a token "
                "(`ollamamax join TOKEN`)",
                **told,
            )
        elif left_ns < _ALARM_NS:
            _LOG.error(
                "the certificate can't be renewed and expires soon; then other nodes refuse this one",
                hours_left=round(left_ns / 3.6e12, 1),
                **told,
            )
        else:
            _LOG.warning("the certificate can't be renewed yet", **told)
        return pause_ms


def _date(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
