"""The cluster's own certificate authority: an EC P-256 key in a file, where the cluster was founded."""

from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ollamamax.adapters import disk
from ollamamax.adapters.identity import papers
from ollamamax.adapters.identity.sealing import seal
from ollamamax.core.catalog import grammar
from ollamamax.core.errors import CertificateRefused, StoreError

KEY_FILE: Final = "ca.key"
CERTIFICATE_FILE: Final = "ca.crt"
NODE_LIFE: Final = timedelta(days=7)
_AUTHORITY_LIFE: Final = timedelta(days=3652)
_BACKDATED: Final = timedelta(days=1)
"""So that a node whose clock is hours behind believes what was signed just now."""
_MAX_COMMON_NAME: Final = 64
_PASSPHRASE: Final = "OLLAMAMAX_PEER__CA_PASSPHRASE"  # noqa: S105 - the setting's name


class FileAuthority:
    """A CertificateAuthority whose key is `ca.key` (0600; encrypted where there is a passphrase) beside `ca.crt`.

    sign() takes about 0.3 ms. create() and load() sync files, and derive a key from the passphrase (0.2 s): call them
    in a thread.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self._pem = certificate.public_bytes(Encoding.PEM)
        self._facts = papers.certificate_facts(self._pem)

    @classmethod
    def create(cls, directory: Path, cluster_id: str, cluster_name: str, passphrase: str | None, now_ns: int) -> Self:
        """A new authority for a new cluster, kept in `directory`. A key that is there is moved aside, not deleted.

        Raises: DiskFull, StoreReadOnly, StoreError.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        made = cls(key, _self_signed(key, cluster_id, cluster_name, now_ns))
        path = directory / KEY_FILE
        with disk.explained(path):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists():  # a founding that was cut short
                path.rename(disk.aside(path))
            disk.write_file(path, _encode(key, passphrase), disk.SECRET_MODE)
            disk.write_file(directory / CERTIFICATE_FILE, made.certificate, disk.PUBLIC_MODE)
        return made

    @classmethod
    def load(cls, directory: Path, passphrase: str | None) -> Self | None:
        """The authority in `directory`; None where there is no key: another node has it.

        A key that lies there in the clear is encrypted in place when a passphrase is given.
        Raises: StoreError if it is damaged, readable by others, or the passphrase is wrong or missing.
        """
        path = directory / KEY_FILE
        data = disk.read_secret(path)
        if data is None:
            return None
        key, is_clear = _decode(data, passphrase, path)
        if passphrase and is_clear:
            with disk.explained(path):
                disk.write_file(path, _encode(key, passphrase), disk.SECRET_MODE)
        beside = directory / CERTIFICATE_FILE
        try:
            facts = papers.certificate_facts(disk.read_file(beside) or b"")
        except CertificateRefused as error:
            raise StoreError(f"{beside} is missing or damaged: take it from another node of the cluster") from error
        if not facts.is_authority or facts.key_hash != papers.key_hash(key.public_key()):
            raise StoreError(f"{beside} is not the certificate of {path}: take it from another node of the cluster")
        return cls(key, x509.load_pem_x509_certificate(facts.pem))

    @classmethod
    def take(cls, directory: Path, key: bytes, certificate: bytes, passphrase: str | None) -> Self:
        """The authority that another node shares, kept in `directory` as create() keeps one.

        key: as export() gives it.  Raises: StoreError if the two don't belong together; DiskFull, StoreReadOnly.
        """
        path = directory / KEY_FILE
        made, _ = _decode(key, None, path)
        facts = papers.certificate_facts(certificate)
        if not facts.is_authority or facts.key_hash != papers.key_hash(made.public_key()):
            raise StoreError("the authority's key that was sent does not fit its certificate: nothing was kept")
        with disk.explained(path):
            disk.write_file(path, _encode(made, passphrase), disk.SECRET_MODE)
            disk.write_file(directory / CERTIFICATE_FILE, facts.pem, disk.PUBLIC_MODE)
        return cls(made, x509.load_pem_x509_certificate(facts.pem))

    @property
    def certificate(self) -> bytes:
        """The CA's certificate, PEM."""
        return self._pem

    @property
    def key_hash(self) -> str:
        """sha256 of the CA's public key (SPKI DER), hex."""
        return self._facts.key_hash

    def sign(self, request: bytes, node_id: str, now_ns: int) -> bytes:
        """A certificate (PEM) for seven days: CN = node id, O = cluster id, DNS `<node id>.ollamamax`.

        What the request says of its sender is ignored, save its key.
        Raises: BadRequest for a request that can't be read, isn't signed by its own key, or whose key is no EC P-256
        one; CertificateRefused when the authority itself has expired.
        """
        grammar.node_id(node_id)
        public_key = papers.load_request(request).public_key()
        return self._issue(public_key, node_id, [x509.DNSName(f"{node_id}.ollamamax")], now_ns)

    def sign_etcd(self, hosts: Sequence[str], now_ns: int) -> tuple[bytes, bytes]:
        """A new key and a certificate (PEM) for this machine's etcd, for seven days: CN `etcd.<cluster id>`.

        hosts: names and IP addresses under which it is reached. No node's: it opens no peer listener.
        Raises: CertificateRefused when the authority itself has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [_general_name(host) for host in dict.fromkeys(hosts)]
        certificate = self._issue(key.public_key(), etcd_name(self._facts.cluster_id), names, now_ns)
        return _encode(key, None), certificate

    def export(self) -> bytes:
        """The key itself (PEM, in the clear), for another node that is to sign, too."""
        return _encode(self._key, None)

    def _issue(
        self, public_key: CertificatePublicKeyTypes, common_name: str, names: list[x509.GeneralName], now_ns: int
    ) -> bytes:
        now = papers.to_time(now_ns)
        ends = self._certificate.not_valid_after_utc
        if now >= ends:
            raise CertificateRefused(f"the cluster's authority has expired ({ends:%Y-%m-%d}): found a new cluster")
        issuer = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        leaf = (
            x509.CertificateBuilder()
            .subject_name(_name(self._facts.cluster_id, common_name))
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(min(now + NODE_LIFE, ends))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        )
        return leaf.sign(self._key, SHA256()).public_bytes(Encoding.PEM)


class FileKeyRing:
    """A KeyRing over `directory`. authority: what lies there already.  ca: the cluster's authority (PEM)."""

    def __init__(self, directory: Path, ca: bytes, passphrase: str | None, authority: FileAuthority | None) -> None:
        self._directory = directory
        self._ca = ca
        self._passphrase = passphrase
        self._authority = authority

    @property
    def authority(self) -> FileAuthority | None:
        """None where others have the key."""
        return self._authority

    def take(self, key: bytes, certificate: bytes) -> None:
        """Keep what another node shares. Raises: StoreError, DiskFull, StoreReadOnly."""
        if papers.certificate_facts(certificate).key_hash != papers.certificate_facts(self._ca).key_hash:
            raise StoreError("the authority's key that was sent is another cluster's: nothing was kept")
        if self._authority is None:
            self._authority = FileAuthority.take(self._directory, key, certificate, self._passphrase)


def etcd_name(cluster_id: str) -> str:
    """The common name of the certificates of a cluster's etcd members: the only one that they accept of each other."""
    return f"etcd.{cluster_id}"


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _self_signed(key: ec.EllipticCurvePrivateKey, cluster_id: str, cluster_name: str, now_ns: int) -> x509.Certificate:
    now = papers.to_time(now_ns)
    name = _name(cluster_id, f"{cluster_name} authority"[:_MAX_COMMON_NAME])
    public_key = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, SHA256())
    )


def _name(organization: str, common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _encode(key: ec.EllipticCurvePrivateKey, passphrase: str | None) -> bytes:
    if passphrase:
        return seal(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), passphrase.encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _decode(data: bytes, passphrase: str | None, path: Path) -> tuple[ec.EllipticCurvePrivateKey, bool]:
    """The key, and whether it lay there in the clear."""
    is_clear = b"ENCRYPTED" not in data
    if not is_clear and not passphrase:
        raise StoreError(f"{path} is encrypted: give its passphrase in {_PASSPHRASE}")
    secret = None if is_clear or not passphrase else passphrase.encode()
    try:
        key = load_pem_private_key(data, password=secret)
    except (ValueError, TypeError) as error:
        if is_clear:
            raise StoreError(f"{path} is damaged: restore it from a backup") from error
        raise StoreError(f"{path} can't be decrypted: {_PASSPHRASE} is wrong, or the file is damaged") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not papers.is_suitable(key):
        raise StoreError(f"{path} holds no EC P-256 key: restore it from a backup")
    return key, is_clear
