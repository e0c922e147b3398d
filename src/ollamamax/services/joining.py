"""How a node without papers becomes a member by a join token: from the token's text to an identity on disk.

Whoever answers at the token's addresses is believed only so far: first it says who it is, over TLS that verifies
nothing, and has to show the authority whose key hash stands in the token. Then a new connection, for which that
authority has to vouch, and only on that one the secret is told.

Deliberate limits: a member that was removed keeps a certificate for up to seven days. If it still answers at an address
of a token, it can pass for a member towards a joining node, which can't know better.
"""

import asyncio
from typing import Final

from msgspec import Struct

from ollamamax.core.catalog import grammar, join_token
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.join_token import JoinToken
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.errors import (
    BadRequest,
    Busy,
    CertificateRefused,
    Denied,
    NodeConflict,
    OllamaMaxError,
    PeerError,
    PeerProtocol,
    PeerTimeout,
    PeerUnavailable,
    PeerVersion,
    StateCorrupt,
    StateTooNew,
    StateUnavailable,
    TokenRefused,
)
from ollamamax.core.types import PROTOCOL_MAX, PROTOCOL_MIN
from ollamamax.ports import CertificateAuthority, Clock, Dice, Identity, IdentityStore, JoinLink, NodeKeys
from ollamamax.services import join_wire
from ollamamax.services.join_wire import Hello, JoinAnswer, JoinRequest

_ID_BYTES: Final = 8
_TOLD_CHARS: Final = 300
_TELLING: Final = (PeerVersion, TokenRefused, CertificateRefused, StateUnavailable, Busy, PeerProtocol, PeerTimeout)
"""Of failures at several addresses the first of these kinds is raised: the others say less."""


class _Applicant(Struct, frozen=True):
    """What a node asks to be let in as. is_known: it has been a member of that cluster."""

    node_id: str
    private_key: bytes
    request: bytes
    name: str
    addresses: tuple[str, ...]
    version: str
    is_known: bool


def found(store: IdentityStore, authority: CertificateAuthority, node_id: str, name: str, now_ns: int) -> Identity:
    """The identity of the first node of a new cluster, kept on disk. Blocks: call it in a thread.

    Raises: StoreError.
    """
    private_key, request = store.new_key()
    keys = store.bind(private_key, authority.sign(request, node_id, now_ns), authority.certificate)
    identity = Identity(
        cluster_id=keys.cluster_id, node_id=node_id, name=name, holder_id=node_id, joined_ns=now_ns, keys=keys
    )
    store.save(identity)
    return identity


async def join(
    token_text: str,
    link: JoinLink,
    store: IdentityStore,
    *,
    name: str,
    addresses: tuple[str, ...],
    version: str,
    clock: Clock,
    dice: Dice,
) -> Identity:
    """Join the token's cluster; on return the identity is on disk, with the cluster's state (store.joined_state()).

    name: wanted; the one that it got stands in the identity.  addresses: where this node thinks that its peer listener
    is reached, at least one.  A node that is, or was, a member of that cluster keeps its id and its key, unless it was
    removed. What it was a member of else is moved aside. Repeating it is harmless.

    Raises: TokenRefused (no token; of another cluster; unknown, expired or used up there), CertificateRefused (who
    answers is no member of the token's cluster, or a clock is wrong), PeerVersion, PeerUnavailable, PeerTimeout,
    PeerProtocol, StateUnavailable (nobody who could sign is there), NodeConflict, BadRequest, Busy, StoreError.
    """
    token = join_token.parse(token_text)
    standing = await asyncio.to_thread(store.load)
    private_key, node_id = None, dice.token_hex(_ID_BYTES)
    if standing is not None and standing.cluster_id == token.cluster_id:
        private_key, node_id = standing.keys.private_key, standing.node_id
    wanted = _applicant(store, private_key, node_id, name, addresses, version)
    try:
        answer, keys = await _ask_all(token, link, store, wanted, clock)
    except NodeConflict:
        if not wanted.is_known:
            raise
        # It was removed from the cluster. With a token it may come back, as another node.
        wanted = _applicant(store, None, dice.token_hex(_ID_BYTES), name, addresses, version)
        answer, keys = await _ask_all(token, link, store, wanted, clock)
    identity = Identity(
        cluster_id=token.cluster_id,
        node_id=wanted.node_id,
        name=answer.name,
        holder_id=answer.holder_id,
        joined_ns=clock.wall_ns(),
        keys=keys,
    )
    await asyncio.to_thread(store.save, identity, answer.state)
    return identity


def _applicant(
    store: IdentityStore,
    private_key: bytes | None,
    node_id: str,
    name: str,
    addresses: tuple[str, ...],
    version: str,
) -> _Applicant:
    if private_key is not None:
        return _Applicant(node_id, private_key, store.request(private_key), name, addresses, version, is_known=True)
    private_key, request = store.new_key()
    return _Applicant(node_id, private_key, request, name, addresses, version, is_known=False)


async def _ask_all(
    token: JoinToken, link: JoinLink, store: IdentityStore, wanted: _Applicant, clock: Clock
) -> tuple[JoinAnswer, NodeKeys]:
    """One address after the other until one lets this node in, or a member of the cluster refuses it."""
    failures: list[OllamaMaxError] = []
    for address in token.addresses:
        try:
            ca = await _meet(address, token, link, store)
            return await _ask(address, ca, token, link, store, wanted, clock)
        except _Refused as refused:
            raise refused.error from None
        except (PeerError, Denied, StateUnavailable, Busy) as error:
            failures.append(error)
    raise _most_telling(failures)


class _Refused(Exception):
    """A verified member of the cluster said no: there is no point in asking another one."""

    def __init__(self, error: OllamaMaxError) -> None:
        super().__init__(str(error))
        self.error = error


async def _meet(address: str, token: JoinToken, link: JoinLink, store: IdentityStore) -> bytes:
    """The authority (PEM) of whoever is there, which is the token's. Raises: what `join` does."""
    try:
        hello = join_wire.answered(await link.hello(address), Hello)
    except OllamaMaxError as error:
        raise _of_a_stranger(error, address) from None
    if hello.protocol_min > PROTOCOL_MAX or hello.protocol_max < PROTOCOL_MIN:
        who = "this machine" if hello.protocol_min > PROTOCOL_MAX else "it"
        raise PeerVersion(
            f"{address} runs OllamaMax {_printable(hello.version)}, which speaks versions {hello.protocol_min} to "
            f"{hello.protocol_max} of the talk between nodes, this program {PROTOCOL_MIN} to {PROTOCOL_MAX}: "
            f"upgrade {who}"
        )
    if hello.cluster_id != token.cluster_id:
        raise TokenRefused(
            f"{address} belongs to cluster {_printable(hello.cluster_id)}, the join token to {token.cluster_id}: "
            "make a token on a node of the cluster that is to be joined"
        )
    ca = store.facts(hello.ca)
    if ca.key_hash != token.ca_hash or not ca.is_authority:
        raise CertificateRefused(
            f"{address} shows another authority than the join token names: it is not a node of that cluster, "
            "and nothing was told to it"
        )
    return ca.pem


async def _ask(
    address: str,
    ca: bytes,
    token: JoinToken,
    link: JoinLink,
    store: IdentityStore,
    wanted: _Applicant,
    clock: Clock,
) -> tuple[JoinAnswer, NodeKeys]:
    request = JoinRequest(
        token_id=token.token_id,
        secret=token.secret,
        request=wanted.request,
        node_id=wanted.node_id,
        name=wanted.name,
        addresses=wanted.addresses,
        version=wanted.version,
        level=LEVEL,
    )
    try:
        body = await _send(link, address, ca, token.cluster_id, join_wire.encode(request))
    except (PeerError, CertificateRefused, StateUnavailable, Busy):
        raise  # another one may do better
    except OllamaMaxError as error:
        raise _Refused(error) from None
    answer = join_wire.answered(body, JoinAnswer)
    keys = _checked(answer, token, store, wanted)
    _check_time(keys, clock.wall_ns())
    return answer, keys


async def _send(link: JoinLink, address: str, ca: bytes, cluster_id: str, body: bytes) -> bytes:
    """Where the answer is lost, this node may be a member all the same, and the token used up: then ask again."""
    try:
        return await link.join(address, ca, cluster_id, body)
    except (PeerUnavailable, PeerTimeout):
        return await link.join(address, ca, cluster_id, body)


def _checked(answer: JoinAnswer, token: JoinToken, store: IdentityStore, wanted: _Applicant) -> NodeKeys:
    """Papers that are what was asked for. Raises: CertificateRefused, PeerProtocol."""
    if store.facts(answer.ca).key_hash != token.ca_hash:
        raise CertificateRefused("the cluster answered with another authority than the join token names")
    keys = store.bind(wanted.private_key, answer.certificate, answer.ca)
    if (keys.node_id, keys.cluster_id) != (wanted.node_id, token.cluster_id):
        raise CertificateRefused("the cluster answered with a certificate for another node")
    try:
        grammar.node_name(answer.name)
        catalog = Catalog.from_range(answer.state)
    except (BadRequest, StateCorrupt) as error:
        raise PeerProtocol(f"the cluster's answer can't be used: {error}") from None
    except StateTooNew as error:
        raise PeerVersion(str(error)) from None
    if (
        catalog.meta is None
        or catalog.meta.cluster_id != token.cluster_id
        or answer.holder_id not in catalog.nodes
        or wanted.node_id not in catalog.nodes
    ):
        raise PeerProtocol("the cluster's answer can't be used: it does not tell its whole state")
    return keys


def _check_time(keys: NodeKeys, now_ns: int) -> None:
    """Raises: CertificateRefused."""
    if not keys.not_before_ns <= now_ns < keys.expires_ns:
        raise CertificateRefused(
            "the new certificate is not valid by this machine's clock: set the clocks of both machines right, "
            "then join again (the same token still does)"
        )


def _most_telling(failures: list[OllamaMaxError]) -> OllamaMaxError:
    for kind in _TELLING:
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    return failures[0]


def _of_a_stranger(error: OllamaMaxError, address: str) -> OllamaMaxError:
    """What somebody said who was not verified: as an error whose text can't play tricks on a terminal."""
    text = _printable(str(error))
    kind = type(error) if isinstance(error, PeerError) else PeerProtocol
    return kind(text if address in text else f"{address}: {text}")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:_TOLD_CHARS])
