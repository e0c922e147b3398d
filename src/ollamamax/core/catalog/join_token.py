"""The text form of a join token: what a person carries from one machine to another.

::

    token    = "omx1." base64url( payload crc32 )       no padding
    payload  = MessagePack array [cluster id, token id, secret, CA key hash, [address, ...]]; the first four as bytes
    crc32    = 4 bytes, big-endian, of the payload      a token that was cut off or mistyped is told as such

Who has a token may join, so it is a secret as a whole. The checksum guards against accidents, not against forgery:
the cluster compares the secret, and the joining node the CA's key.
"""

import binascii
import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec
from msgspec import Struct

from ollamamax.core.catalog import grammar
from ollamamax.core.errors import BadRequest, TokenRefused

_KIND: Final = 1
_MAX_CHARS: Final = 4_096
_FORM: Final = re.compile(r"omx([1-9][0-9]{0,3})\.([A-Za-z0-9_-]*)")
_SECRET: Final = re.compile(r"[0-9a-f]{32}")
_CHECKSUM_BYTES: Final = 4
_REMEDY: Final = "copy it whole from the output of `ollamamax token create`"


class JoinToken(Struct, frozen=True, kw_only=True):
    """cluster_id, token_id: 16 hex.  secret: 32 hex.  ca_hash: sha256 of the CA's public key (SPKI DER), 64 hex.

    addresses: of peer listeners that answer the joining node, 1 to 8, best first.
    """

    cluster_id: str
    token_id: str
    secret: str
    ca_hash: str
    addresses: tuple[str, ...]

    def __repr__(self) -> str:
        return f"JoinToken(cluster_id={self.cluster_id!r}, token_id={self.token_id!r}, secret=...)"


class _Payload(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    cluster_id: bytes
    token_id: bytes
    secret: bytes
    ca_hash: bytes
    addresses: tuple[str, ...]


_DECODER: Final = msgspec.msgpack.Decoder(_Payload)


def secret_hash(secret: str) -> str:
    """What the cluster keeps of a secret: sha256 of its 32 hex digits as ASCII, in hex. Raises: BadRequest."""
    if _SECRET.fullmatch(secret) is None:
        raise BadRequest("that is no join token's secret: 32 hex digits (0-9, a-f)")
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def encode(token: JoinToken) -> str:
    """The text; addresses in their one spelling. Raises: BadRequest for a part outside its grammar."""
    grammar.cluster_id(token.cluster_id)
    grammar.token_id(token.token_id)
    secret_hash(token.secret)
    grammar.sha256_hex(token.ca_hash)
    if not 1 <= len(token.addresses) <= grammar.MAX_ADDRESSES:
        raise BadRequest(f"a join token has 1 to {grammar.MAX_ADDRESSES} addresses, not {len(token.addresses)}")
    payload = msgspec.msgpack.encode(
        _Payload(
            bytes.fromhex(token.cluster_id),
            bytes.fromhex(token.token_id),
            bytes.fromhex(token.secret),
            bytes.fromhex(token.ca_hash),
            tuple(grammar.peer_address(address) for address in token.addresses),
        )
    )
    whole = payload + binascii.crc32(payload).to_bytes(_CHECKSUM_BYTES, "big")
    return f"omx{_KIND}.{urlsafe_b64encode(whole).rstrip(b'=').decode('ascii')}"


def parse(text: str) -> JoinToken:
    """The token again; spaces and line ends that copying brought in are dropped.

    Raises: TokenRefused, saying whether it is no token, was cut off or mistyped, or is of a newer program.
    """
    bare = "".join(text.split())
    match = _FORM.fullmatch(bare) if len(bare) <= _MAX_CHARS else None
    if match is None:
        raise TokenRefused(f"that is no join token (it begins with omx{_KIND}.): {_REMEDY}")
    if int(match[1]) != _KIND:
        raise TokenRefused("the join token was made by a newer OllamaMax: upgrade it on this machine, then join again")
    try:
        token = _decoded(match[2])
        # One text for each token: what decodes but was not made by encode() was tampered with.
        if encode(token) == bare:
            return token
    except (ValueError, RecursionError, BadRequest):
        pass
    raise TokenRefused(f"the join token was cut off or mistyped: {_REMEDY}")


def _decoded(text: str) -> JoinToken:
    """Raises: ValueError, RecursionError."""
    whole = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    payload, checksum = whole[:-_CHECKSUM_BYTES], whole[-_CHECKSUM_BYTES:]
    if binascii.crc32(payload).to_bytes(_CHECKSUM_BYTES, "big") != checksum:
        raise ValueError("checksum")
    parts = _DECODER.decode(payload)
    return JoinToken(
        cluster_id=parts.cluster_id.hex(),
        token_id=parts.token_id.hex(),
        secret=parts.secret.hex(),
        ca_hash=parts.ca_hash.hex(),
        addresses=parts.addresses,
    )
