"""Letting other nodes in: join tokens, the answers to who wants to join, and renewed certificates.

A joining goes to any member. One that has the authority's key signs; the others pass it on to the nodes that hold the
state, which is where the key is. Nothing is signed for a stranger that stays so: the certificate is handed out
only after the catalog took the node in, and used the token up, in one transaction.

Signing takes 0.3 ms and happens in the event loop; a stranger's attempts are few (FailureLimit).

Deliberate limits: members believe each other about the address that a joining came from; a certificate stays valid for
its seven days, so who is removed is refused by its id and its key (the catalog's `revoked/`), not by its certificate.
"""

from collections.abc import Callable
from typing import Final

import structlog

from ollamamax.core.catalog import grammar, join_token
from ollamamax.core.catalog.commands import AddNode, AddToken, DropToken, SweepTokens
from ollamamax.core.errors import (
    BadRequest,
    CertificateRefused,
    Conflict,
    NodeConflict,
    PeerError,
    StateElsewhere,
    StateUnavailable,
    TokenRefused,
)
from ollamamax.core.types import NewToken, NodeRecord, TokenRecord, TokenView
from ollamamax.ports import (
    Caller,
    CertificateAuthority,
    Clock,
    Dice,
    Identity,
    IdentityStore,
    PeerLink,
    PeerMethods,
)
from ollamamax.services import join_wire
from ollamamax.services.control import Control
from ollamamax.services.failure_limit import FailureLimit
from ollamamax.services.join_wire import ForwardedJoin, Hello, JoinAnswer, JoinRequest, RenewAnswer, RenewRequest
from ollamamax.services.replica import Replica

_LOG: Final = structlog.get_logger(__name__)
_FORWARD_TIMEOUT_MS: Final = 20_000.0
_RENEW_TIMEOUT_MS: Final = 20_000.0
_MAX_TTL_MS: Final = 30 * 86_400_000
_MAX_USES: Final = 1_000
_LOOPBACK: Final = ("127.", "[::1]")
_REMEMBERED_NS: Final = 86_400 * 10**9
"""How long after its end a token is still listed."""


class Issuer:
    """authority: gives None as long as others have the key.  identity: this node's own.  version: of this program."""

    def __init__(
        self,
        *,
        authority: Callable[[], CertificateAuthority | None],
        store: IdentityStore,
        identity: Identity,
        control: Control,
        replica: Replica,
        link: PeerLink,
        clock: Clock,
        dice: Dice,
        version: str,
    ) -> None:
        self._authority = authority
        self._store = store
        self._identity = identity
        self._control = control
        self._replica = replica
        self._link = link
        self._clock = clock
        self._dice = dice
        self._version = version
        self._limit = FailureLimit(clock)

    def methods(self) -> PeerMethods:
        """What other nodes may ask of this one, and who has no certificate yet."""
        return PeerMethods(
            unary={join_wire.FORWARD: self._forwarded, join_wire.RENEW: self._renew},
            open={join_wire.HELLO: self._hello, join_wire.JOIN: self._join},
        )

    # --- join tokens ------------------------------------------------------------------------------------------

    async def create_token(self, ttl_ms: int, uses: int) -> NewToken:
        """Let `uses` nodes join within `ttl_ms`. The cluster keeps only the hash of the secret.

        Raises: BadRequest, Conflict (nobody could call this node), StateUnavailable.
        """
        if not 1_000 <= ttl_ms <= _MAX_TTL_MS:
            raise BadRequest("a join token lives at least a second, and 30 days at most")
        if not 1 <= uses <= _MAX_USES:
            raise BadRequest(f"a join token is good for 1 to {_MAX_USES} nodes")
        now_ns = self._clock.wall_ns()
        secret = self._dice.token_hex(16)
        token = join_token.JoinToken(
            cluster_id=self._identity.cluster_id,
            token_id=self._dice.token_hex(8),
            secret=secret,
            ca_hash=self._store.facts(self._identity.keys.ca).key_hash,
            addresses=self._addresses(),
        )
        text = join_token.encode(token)
        record = TokenRecord(
            token_id=token.token_id,
            secret_hash=join_token.secret_hash(secret),
            created_ns=now_ns,
            expires_ns=now_ns + ttl_ms * 1_000_000,
            uses_left=uses,
        )
        old_ns = now_ns - _REMEMBERED_NS
        if any(known.expires_ns <= old_ns for known in self._replica.catalog.tokens.values()):
            await self._control.run(SweepTokens(at_ns=old_ns))
        await self._control.run(AddToken(record=record))
        return NewToken(token=text, token_id=token.token_id, expires_ns=record.expires_ns, uses=uses)

    def tokens(self) -> tuple[TokenView, ...]:
        """Those that were not revoked, oldest first; used and expired ones too, for a day."""
        known = sorted(self._replica.catalog.tokens.values(), key=lambda token: (token.created_ns, token.token_id))
        return tuple(
            TokenView(
                token_id=token.token_id,
                created_ns=token.created_ns,
                expires_ns=token.expires_ns,
                uses_left=token.uses_left,
            )
            for token in known
        )

    async def revoke_token(self, token_id: str) -> None:
        """Nobody joins by it any more. Raises: NotFound, StateUnavailable."""
        await self._control.run(DropToken(token_id=token_id))

    def _addresses(self) -> tuple[str, ...]:
        """This node's, then those of who holds the state: one of them will answer. Raises: Conflict."""
        catalog = self._replica.catalog
        nodes = [catalog.nodes.get(self._identity.node_id), *catalog.hosts]
        addresses = dict.fromkeys(address for node in nodes if node is not None for address in node.addresses)
        if not addresses:
            raise Conflict("no address is known under which others can call this node: set peer.advertise")
        return tuple(addresses)[: grammar.MAX_ADDRESSES]

    # --- joining ----------------------------------------------------------------------------------------------

    async def _hello(self, caller: Caller, body: bytes) -> bytes:
        """cluster.hello: for anybody; tells nothing that a look at the LAN would not."""
        catalog = self._replica.catalog
        own = catalog.nodes.get(self._identity.node_id)
        return join_wire.encode(
            Hello(
                cluster_id=self._identity.cluster_id,
                cluster_name=catalog.meta.name if catalog.meta is not None else "",
                node_id=self._identity.node_id,
                node_name=own.name if own is not None else self._identity.name,
                version=self._version,
                ca=self._identity.keys.ca,
            )
        )

    async def _join(self, caller: Caller, body: bytes) -> bytes:
        """cluster.join: for who has a token."""
        source = caller.address
        self._limit.check(source)
        try:
            request = join_wire.asked(body, JoinRequest)
            if (authority := self._authority()) is not None:
                return await self._let_in(authority, request, source)
            return await self._pass_on(ForwardedJoin(join=request, source=source))
        except (TokenRefused, BadRequest) as error:
            self._limit.failed(source)
            _LOG.warning("a joining was refused", source=source, reason=str(error))
            raise

    async def _pass_on(self, passed: ForwardedJoin) -> bytes:
        """Raises: StateUnavailable if no node that signs can be reached, and its own errors."""
        return await self._ask_signer(join_wire.FORWARD, join_wire.encode(passed), _FORWARD_TIMEOUT_MS)

    async def _forwarded(self, caller: Caller, body: bytes) -> bytes:
        """cluster.join.forward: a member has who wants to join."""
        passed = join_wire.asked(body, ForwardedJoin)
        if (authority := self._authority()) is None:
            raise _no_key_here()
        self._limit.check(passed.source)
        try:
            return await self._let_in(authority, passed.join, passed.source)
        except (TokenRefused, BadRequest):
            self._limit.failed(passed.source)
            raise

    async def _let_in(self, authority: CertificateAuthority, request: JoinRequest, source: str) -> bytes:
        """Raises: TokenRefused, BadRequest, NodeConflict, StateUnavailable."""
        now_ns = self._clock.wall_ns()
        node_id = grammar.node_id(request.node_id)
        certificate = authority.sign(request.request, node_id, now_ns)
        catalog = await self._control.run(
            AddNode(
                node_id=node_id,
                name=request.name,
                addresses=_merged(request.addresses, source),
                key_hash=self._store.facts(certificate).key_hash,
                version=request.version,
                token_id=request.token_id,
                secret_hash=join_token.secret_hash(request.secret),
                at_ns=now_ns,
                level=request.level,
            )
        )
        node = catalog.nodes.get(node_id)
        if node is None or catalog.holder is None:
            raise NodeConflict(f"node {node_id} was removed again while it joined")
        _LOG.info("a node joined", node=node.name, node_id=node_id, source=source, token_id=request.token_id)
        return join_wire.encode(
            JoinAnswer(
                certificate=certificate,
                ca=authority.certificate,
                cluster_id=self._identity.cluster_id,
                holder_id=catalog.holder.node_id,
                node_id=node_id,
                name=node.name,
                state=catalog.entries(),
            )
        )

    # --- renewing ---------------------------------------------------------------------------------------------

    @property
    def signs_here(self) -> bool:
        """Whether this node has the authority's key."""
        return self._authority() is not None

    async def own_certificate(self, request: bytes) -> bytes:
        """A new certificate (PEM) for this node's own key. Raises: StateUnavailable, CertificateRefused, PeerError."""
        if (authority := self._authority()) is not None:
            return authority.sign(request, self._identity.node_id, self._clock.wall_ns())
        body = join_wire.encode(RenewRequest(request=request))
        answer = await self._ask_signer(join_wire.RENEW, body, _RENEW_TIMEOUT_MS)
        return join_wire.answered(answer, RenewAnswer).certificate

    async def _renew(self, caller: Caller, body: bytes) -> bytes:
        """cluster.renew: for a member, which its certificate says who it is. A new key needs a token."""
        if (authority := self._authority()) is None:
            raise _no_key_here()
        node = self._replica.catalog.nodes.get(caller.node_id)
        if node is None:
            raise CertificateRefused(f"node {caller.node_id} is no member of the cluster (any more)")
        request = join_wire.asked(body, RenewRequest).request
        certificate = authority.sign(request, node.node_id, self._clock.wall_ns())
        if self._store.facts(certificate).key_hash != node.key_hash:
            raise CertificateRefused(
                f"node {node.name} asks for a certificate for another key than the one it joined with: "
                "join anew with a token (`ollamamax join TOKEN`)"
            )
        return join_wire.encode(RenewAnswer(certificate=certificate))

    async def _ask_signer(self, method: str, body: bytes, timeout_ms: float) -> bytes:
        """Of the nodes that hold the state, and so the authority's key, the first one that answers.

        Raises: StateUnavailable, and that one's own errors.
        """
        if not self._replica.catalog.hosts:
            raise StateUnavailable("the cluster's state was not seen yet, so the node that signs is not known")
        signers = [node for node in self._replica.catalog.hosts if node.node_id != self._identity.node_id]
        failure: StateUnavailable = _no_key_here()
        for node in signers:
            try:
                return await self._link.call(node, method, body, timeout_ms=timeout_ms)
            except StateElsewhere as error:
                failure = error
            except PeerError as error:
                failure = _away(node, error)
        raise failure


def _no_key_here() -> StateElsewhere:
    return StateElsewhere("this node lacks the key of the cluster's authority (ca.key), so it can't sign")


def _away(signer: NodeRecord, error: PeerError) -> StateUnavailable:
    return StateUnavailable(f"node {signer.name}, which signs certificates, can't be reached now ({error})")


def _merged(addresses: tuple[str, ...], source: str) -> tuple[str, ...]:
    """Where a joining node is found: what it said, and where it was seen to come from, with its port.

    What it said and is confirmed comes first. Else what was seen comes last: it may have come through a NAT.
    Raises: BadRequest for more addresses than a node may have, or for what is none.
    """
    own = tuple(dict.fromkeys(grammar.peer_address(address) for address in addresses))
    if not own:
        raise BadRequest("a node joins with at least one address of its peer listener")
    try:
        seen = grammar.peer_address(grammar.address(source, grammar.split_address(own[0])[1]))
    except BadRequest:  # a link-local one, of use to nobody else
        return own
    if seen in own:
        return (seen, *(address for address in own if address != seen))
    is_of_use = not seen.startswith(_LOOPBACK) and len(own) < grammar.MAX_ADDRESSES
    return (*own, seen) if is_of_use else own
