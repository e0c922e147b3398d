"""TLS between nodes: contexts from a node's papers, and who the other side is by its certificate.

TLS 1.3 only. A node is verified by name, `<node id>.ollamamax`, whatever address it was reached at.
Source: RFC 8446; RFC 5280, section 4.1.2.7 (the key that is hashed).
"""

import hashlib
import os
import re
import ssl
import tempfile
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier
from msgspec import Struct

from ollamamax.core.errors import CertificateRefused
from ollamamax.ports import NodeKeys

JOIN_NAME: Final = "join.ollamamax"
"""The server name (SNI) of who has no certificate yet."""
_NODE_ID: Final = re.compile(r"[0-9a-f]{16}")


class Papers(Struct, frozen=True):
    """Who the other side is. key_hash: sha256 of its public key (SPKI DER), hex."""

    node_id: str
    cluster_id: str
    key_hash: str


class _ServerSide(ssl.SSLObject):
    """Remembers the name that the client asked for."""

    asked_for: str | None = None


def server_name(node_id: str) -> str:
    """What a node's certificate is issued to."""
    return f"{node_id}.ollamamax"


def listener_context(keys: NodeKeys) -> ssl.SSLContext:
    """For the peer listener: clients may come without a certificate, but none that the cluster's CA did not sign.

    Raises: CertificateRefused for papers that can't be used.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, keys)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a session that is resumed would not be looked at again
    context.sslobject_class = _ServerSide
    context.sni_callback = _remember_name
    return context


def link_context(keys: NodeKeys) -> ssl.SSLContext:
    """For connections to other nodes: only the CA of the cluster vouches for them, and by name.

    Raises: CertificateRefused for papers that can't be used.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, keys)


def papers_of(tls: object) -> Papers | None:
    """Who the other side is; None if it showed no certificate, or one that names no node. tls: the ssl object."""
    data = tls.getpeercert(binary_form=True) if isinstance(tls, ssl.SSLObject | ssl.SSLSocket) else None
    if data is None:
        return None
    try:
        certificate = x509.load_der_x509_certificate(data)
    except ValueError:
        return None
    node_id = _named(certificate, NameOID.COMMON_NAME)
    if _NODE_ID.fullmatch(node_id) is None:
        return None
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Papers(node_id, _named(certificate, NameOID.ORGANIZATION_NAME), hashlib.sha256(key).hexdigest())


def is_joining(tls: object) -> bool:
    """Whether the client asked for the name that is there for those without a certificate. tls: the ssl object."""
    return isinstance(tls, _ServerSide) and tls.asked_for == JOIN_NAME


def _context(protocol: int, keys: NodeKeys) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=keys.ca.decode("ascii"))
        _load_chain(context, keys.private_key, keys.certificate)
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
        raise CertificateRefused(f"this node's papers can't be used for TLS: {error}") from None
    return context


def _load_chain(context: ssl.SSLContext, private_key: bytes, certificate: bytes) -> None:
    """OpenSSL reads a chain and its key from a file only: a private one (mode 0600), there for a moment."""
    descriptor, path = tempfile.mkstemp(prefix="ollamamax-", suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(private_key.rstrip() + b"\n" + certificate)
        context.load_cert_chain(path)
    finally:
        Path(path).unlink()


def _remember_name(tls: object, name: str | None, context: ssl.SSLContext) -> None:
    if isinstance(tls, _ServerSide):
        tls.asked_for = name


def _named(certificate: x509.Certificate, which: ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(which)
    return str(found[0].value) if len(found) == 1 else ""
