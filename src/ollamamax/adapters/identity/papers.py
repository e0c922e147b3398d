"""Keys, signing requests and certificates: EC P-256 (RFC 5480), X.509 v3 (RFC 5280). No files here.

All of it takes well under a millisecond, so it may be called in the event loop.
"""

import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID, ObjectIdentifier

from ollamamax.core.errors import BadRequest, CertificateRefused
from ollamamax.ports import CertificateFacts, NodeKeys

LARGEST_PEM_BYTES: Final = 16 * 1024
_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
_PEM_BLOCK: Final = re.compile(rb"-----BEGIN ")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def new_key() -> tuple[bytes, bytes]:
    """A new private key (PKCS8, not encrypted) and a signing request for it, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, _request(key)


def request(private_key: bytes) -> bytes:
    """A signing request (PEM) for a key (PEM). Raises: CertificateRefused if the key can't be used."""
    return _request(_load_key(private_key))


def certificate_facts(certificate: bytes) -> CertificateFacts:
    """What exactly one certificate (PEM or DER) says. Its signature is not looked at.

    More than one is refused, since who trusts the whole of it would trust the others too.
    Raises: CertificateRefused if it can't be read.
    """
    return _facts(_load(certificate))


def bind(private_key: bytes, certificate: bytes, ca: bytes) -> NodeKeys:
    """Papers (PEM), checked to belong together; the time is not looked at.

    Raises: CertificateRefused if the certificate is not of that key, or not issued by that authority.
    """
    leaf, authority, key = _load(certificate), _load(ca), _load_key(private_key)
    facts, ca_facts = _facts(leaf), _facts(authority)
    if key_hash(key.public_key()) != facts.key_hash:
        raise CertificateRefused("the certificate belongs to another key")
    if not ca_facts.is_authority:
        raise CertificateRefused("the cluster's authority is none: its certificate may not sign")
    try:
        leaf.verify_directly_issued_by(authority)
    except (*_UNREADABLE, InvalidSignature):
        raise CertificateRefused("the certificate was not issued by this cluster's authority") from None
    if facts.cluster_id != ca_facts.cluster_id:
        raise CertificateRefused("the certificate speaks of another cluster than its authority")
    return NodeKeys(
        node_id=facts.node_id,
        cluster_id=facts.cluster_id,
        private_key=private_key,
        certificate=facts.pem,
        ca=ca_facts.pem,
        not_before_ns=facts.not_before_ns,
        expires_ns=facts.expires_ns,
    )


def load_request(pem: bytes) -> x509.CertificateSigningRequest:
    """A signing request that is signed by its own EC P-256 key. Raises: BadRequest for anything else."""
    if len(pem) > LARGEST_PEM_BYTES:
        raise BadRequest(f"the signing request is larger than {LARGEST_PEM_BYTES} bytes")
    try:
        csr = x509.load_pem_x509_csr(pem)
        key = csr.public_key()
        is_own = is_suitable(key) and csr.is_signature_valid
    except (*_UNREADABLE, InvalidSignature):
        raise BadRequest("the signing request can't be read") from None
    if not is_suitable(key):
        raise BadRequest("the signing request's key can't be used: only EC P-256 keys are signed")
    if not is_own:
        raise BadRequest("the signing request is not signed by its own key")
    return csr


def is_suitable(key: object) -> bool:
    """Whether it is an EC key (either half) on P-256."""
    return isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) and isinstance(
        key.curve, ec.SECP256R1
    )


def key_hash(key: ec.EllipticCurvePublicKey) -> str:
    """sha256 of its SubjectPublicKeyInfo (DER), hex."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def to_time(ns: int) -> datetime:
    """Unix nanoseconds as a date, cut to whole seconds, which is what certificates hold."""
    return _EPOCH + timedelta(seconds=ns // 1_000_000_000)


def to_ns(time: datetime) -> int:
    """A date as Unix nanoseconds."""
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


def _request(key: ec.EllipticCurvePrivateKey) -> bytes:
    # The authority writes the subject itself: what a request says of its sender counts for nothing.
    return x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, SHA256()).public_bytes(Encoding.PEM)


def _load_key(private_key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(private_key, password=None)
    except _UNREADABLE:
        raise CertificateRefused("the private key can't be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_suitable(key):
        raise CertificateRefused("the private key can't be used: it is no EC P-256 key")
    return key


def _load(data: bytes) -> x509.Certificate:
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            if len(data) > LARGEST_PEM_BYTES or len(_PEM_BLOCK.findall(data)) != 1:
                raise CertificateRefused("more than one certificate where one is expected")
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except _UNREADABLE:
        raise CertificateRefused("the certificate can't be read") from None


def _facts(certificate: x509.Certificate) -> CertificateFacts:
    try:
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not is_suitable(key):
            raise CertificateRefused("the certificate's key can't be used: it is no EC P-256 key")
        return CertificateFacts(
            node_id=_named(certificate, NameOID.COMMON_NAME),
            cluster_id=_named(certificate, NameOID.ORGANIZATION_NAME),
            key_hash=key_hash(key),
            not_before_ns=to_ns(certificate.not_valid_before_utc),
            expires_ns=to_ns(certificate.not_valid_after_utc),
            is_authority=_is_authority(certificate),
            pem=certificate.public_bytes(Encoding.PEM),
        )
    except _UNREADABLE:
        raise CertificateRefused("the certificate can't be read") from None


def _named(certificate: x509.Certificate, which: ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(which)
    return str(found[0].value) if len(found) == 1 else ""


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
