"""The cluster's authority: its key file, what it signs, what it refuses; and that TLS believes it."""

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamamax.adapters.identity import papers
from ollamamax.adapters.identity.authority import FileAuthority, FileKeyRing, etcd_name
from ollamamax.core.errors import BadRequest, CertificateRefused, OllamaMaxError, StoreError

NOW_NS = 1_800_000_000_000_000_000
NOW = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
CLUSTER = "c0ffee00c0ffee00"
NODE = "0123456789abcdef"
DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> FileAuthority:
    return FileAuthority.create(tmp_path / "cluster", CLUSTER, "home", None, NOW_NS)


def test_a_node_certificate_says_what_it_must(authority: FileAuthority) -> None:
    key, request = papers.new_key()
    pem = authority.sign(request, NODE, NOW_NS)
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == NODE
    assert certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == CLUSTER
    assert certificate.not_valid_before_utc == NOW - DAY
    assert certificate.not_valid_after_utc == NOW + 7 * DAY
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"{NODE}.ollamamax"]
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    facts = papers.certificate_facts(pem)
    assert (facts.node_id, facts.cluster_id, facts.is_authority) == (NODE, CLUSTER, False)
    assert facts.expires_ns == NOW_NS + 7 * 86_400 * 10**9
    keys = papers.bind(key, pem, authority.certificate)
    assert (keys.node_id, keys.cluster_id, keys.expires_ns) == (NODE, CLUSTER, facts.expires_ns)
    assert keys.not_before_ns == NOW_NS - 86_400 * 10**9


def test_the_authority_certificate_says_what_it_must(authority: FileAuthority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert 3650 <= (certificate.not_valid_after_utc - NOW).days <= 3653
    facts = papers.certificate_facts(authority.certificate)
    assert (facts.cluster_id, facts.is_authority, facts.key_hash) == (CLUSTER, True, authority.key_hash)


def test_no_two_certificates_have_a_serial_in_common(authority: FileAuthority) -> None:
    _, request = papers.new_key()
    made = [x509.load_pem_x509_certificate(authority.sign(request, NODE, NOW_NS)) for _ in range(20)]
    assert len({one.serial_number for one in made}) == 20


def test_no_certificate_outlives_the_authority(authority: FileAuthority) -> None:
    ends_ns = papers.certificate_facts(authority.certificate).expires_ns
    _, request = papers.new_key()
    late = papers.certificate_facts(authority.sign(request, NODE, ends_ns - 10**9))
    assert late.expires_ns == ends_ns
    with pytest.raises(CertificateRefused, match="authority has expired"):
        authority.sign(request, NODE, ends_ns)


def _csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["RSA", "P-384", "Ed25519"],
)
def test_other_keys_are_refused(
    authority: FileAuthority, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    with pytest.raises(BadRequest, match=r"only EC P-256"):
        authority.sign(_csr(key), NODE, NOW_NS)


def test_a_request_signed_by_another_key_is_refused(authority: FileAuthority) -> None:
    _, mine = papers.new_key()
    _, other = papers.new_key()
    der = bytearray(x509.load_pem_x509_csr(mine).public_bytes(Encoding.DER))
    point = x509.load_pem_x509_csr(mine).tbs_certrequest_bytes
    stolen = x509.load_pem_x509_csr(other).tbs_certrequest_bytes
    assert len(point) == len(stolen)
    at = bytes(der).index(point)
    der[at : at + len(point)] = stolen
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(BadRequest, match="not signed by its own key"):
        authority.sign(forged, NODE, NOW_NS)


@pytest.mark.parametrize("data", [b"", b"x", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\0" * 100_000])
def test_garbage_is_refused(authority: FileAuthority, data: bytes) -> None:
    with pytest.raises(BadRequest, match="signing request"):
        authority.sign(data, NODE, NOW_NS)


@pytest.mark.parametrize(
    "node_id", ["", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0", "../../etc/passwd"]
)
def test_only_node_ids_are_certified(authority: FileAuthority, node_id: str) -> None:
    with pytest.raises(BadRequest, match="node id"):
        authority.sign(papers.new_key()[1], node_id, NOW_NS)


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 100))
@settings(max_examples=150, deadline=None)
def test_a_damaged_request_or_certificate_raises_our_errors_alone(noise: bytes, at: int, cut: int) -> None:
    for der, read, label in ((_REQUEST_DER, papers.load_request, "CERTIFICATE REQUEST"), (_LEAF_DER, None, "")):
        damaged = der[: min(at, len(der))] + noise + der[at + cut :]
        try:
            if read is None:
                papers.certificate_facts(damaged)
            else:
                read(ssl.DER_cert_to_PEM_cert(damaged).replace("CERTIFICATE", label).encode())
        except OllamaMaxError:
            continue


def _some_der() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NODE)])
    request = x509.CertificateSigningRequestBuilder(name).sign(key, SHA256())
    leaf = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, NOW, NOW + DAY)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, SHA256())
    )
    return request.public_bytes(Encoding.DER), leaf.public_bytes(Encoding.DER)


_REQUEST_DER, _LEAF_DER = _some_der()


def test_two_certificates_in_one_are_refused(authority: FileAuthority, tmp_path: Path) -> None:
    foreign = FileAuthority.create(tmp_path / "foreign", CLUSTER, "home", None, NOW_NS)
    with pytest.raises(CertificateRefused, match="more than one"):
        papers.certificate_facts(authority.certificate + foreign.certificate)


def test_papers_that_do_not_belong_together_are_refused(authority: FileAuthority, tmp_path: Path) -> None:
    foreign = FileAuthority.create(tmp_path / "foreign", CLUSTER, "home", None, NOW_NS)
    key, request = papers.new_key()
    certificate = authority.sign(request, NODE, NOW_NS)
    with pytest.raises(CertificateRefused, match="not issued by this cluster's authority"):
        papers.bind(key, foreign.sign(request, NODE, NOW_NS), authority.certificate)
    with pytest.raises(CertificateRefused, match="another key"):
        papers.bind(papers.new_key()[0], certificate, authority.certificate)
    with pytest.raises(CertificateRefused, match="may not sign"):
        papers.bind(key, certificate, certificate)
    with pytest.raises(CertificateRefused, match="private key can't be read"):
        papers.bind(b"nothing", certificate, authority.certificate)


# The key file


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_key_is_the_owners_alone(authority: FileAuthority, tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    assert _mode(directory / "ca.key") == 0o600
    assert _mode(directory) == 0o700
    loaded = FileAuthority.load(directory, None)
    assert loaded is not None
    assert (loaded.certificate, loaded.key_hash) == (authority.certificate, authority.key_hash)
    assert sorted(path.name for path in directory.iterdir()) == ["ca.crt", "ca.key"]


def test_the_key_is_never_written_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode=0o777: modes.append(mode) or real(path, flags, mode))
    old = os.umask(0)
    try:
        FileAuthority.create(tmp_path / "cluster", CLUSTER, "home", None, NOW_NS)
    finally:
        os.umask(old)
    assert modes[0] == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_key_that_others_may_read_is_refused(authority: FileAuthority, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "cluster" / "ca.key"
    path.chmod(mode)
    with pytest.raises(StoreError, match=r"ca\.key may be read by other users .*chmod 600"):
        FileAuthority.load(path.parent, None)


def test_without_a_key_there_is_no_authority(tmp_path: Path) -> None:
    assert FileAuthority.load(tmp_path / "nowhere", None) is None


def test_a_passphrase_encrypts_the_key(tmp_path: Path) -> None:
    made = FileAuthority.create(tmp_path, CLUSTER, "home", "open sesame", NOW_NS)
    path = tmp_path / "ca.key"
    with pytest.raises(TypeError):
        load_pem_private_key(path.read_bytes(), None)
    loaded = FileAuthority.load(tmp_path, "open sesame")
    assert loaded is not None
    assert loaded.key_hash == made.key_hash
    for wrong in (None, "", "sesame"):
        with pytest.raises(StoreError, match=r"OLLAMAMAX_PEER__CA_PASSPHRASE") as refused:
            FileAuthority.load(tmp_path, wrong)
        assert "sesame" not in str(refused.value)


@pytest.mark.parametrize("passphrase", ["x", "ünïcode and spaces", "y" * 200])
def test_an_encrypted_key_is_of_the_standard_form(tmp_path: Path, passphrase: str) -> None:
    FileAuthority.create(tmp_path, CLUSTER, "home", passphrase, NOW_NS)
    pem = (tmp_path / "ca.key").read_bytes()
    key = load_pem_private_key(pem, passphrase.encode())
    certificate = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    assert key.public_key() == certificate.public_key()
    assert (600_000).to_bytes(3, "big") in ssl.PEM_cert_to_DER_cert(
        pem.decode().replace("ENCRYPTED PRIVATE KEY", "CERTIFICATE")
    ), "many rounds of PBKDF2"


def test_a_later_passphrase_encrypts_a_key_in_place(authority: FileAuthority, tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    assert FileAuthority.load(directory, "later") is not None
    assert b"ENCRYPTED" in (directory / "ca.key").read_bytes()
    assert _mode(directory / "ca.key") == 0o600
    with pytest.raises(StoreError, match="PASSPHRASE"):
        FileAuthority.load(directory, None)
    assert FileAuthority.load(directory, "later") is not None


def test_a_founding_anew_moves_the_old_key_aside(authority: FileAuthority, tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    old = (directory / "ca.key").read_bytes()
    again = FileAuthority.create(directory, CLUSTER, "home", None, NOW_NS)
    assert again.key_hash != authority.key_hash
    assert (directory / "ca.key.old-1").read_bytes() == old
    assert _mode(directory / "ca.key.old-1") == 0o600


@pytest.mark.parametrize("data", [b"", b"junk", b"\0" * 100_000])
def test_a_damaged_key_is_named(authority: FileAuthority, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cluster" / "ca.key"
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"ca\.key (is|holds)"):
        FileAuthority.load(path.parent, None)
    assert path.read_bytes() == data


def test_a_key_of_another_kind_is_named(authority: FileAuthority, tmp_path: Path) -> None:
    path = tmp_path / "cluster" / "ca.key"
    other = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(StoreError, match="no EC P-256 key"):
        FileAuthority.load(path.parent, None)


def test_a_missing_or_foreign_certificate_beside_the_key_is_named(authority: FileAuthority, tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    foreign = FileAuthority.create(tmp_path / "foreign", CLUSTER, "home", None, NOW_NS)
    (directory / "ca.crt").write_bytes(foreign.certificate)
    with pytest.raises(StoreError, match=r"ca\.crt is not the certificate of"):
        FileAuthority.load(directory, None)
    (directory / "ca.crt").unlink()
    with pytest.raises(StoreError, match=r"ca\.crt is missing"):
        FileAuthority.load(directory, None)


# TLS itself


def _context(purpose: ssl.Purpose, folder: Path, authority: FileAuthority, node_id: str, now_ns: int) -> ssl.SSLContext:
    key, request = papers.new_key()
    (folder / f"{node_id}.pem").write_bytes(authority.sign(request, node_id, now_ns) + key)
    context = ssl.create_default_context(purpose, cadata=authority.certificate.decode())
    context.load_cert_chain(folder / f"{node_id}.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, hostname: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends in memory. Raises: ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=hostname)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (here, there):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return here, there


def test_nodes_of_a_cluster_believe_each_other(tmp_path: Path) -> None:
    now_ns = int(datetime.now(UTC).timestamp() * 1e9)
    authority = FileAuthority.create(tmp_path / "cluster", CLUSTER, "home", None, now_ns)
    server = _context(ssl.Purpose.CLIENT_AUTH, tmp_path, authority, NODE, now_ns)
    client = _context(ssl.Purpose.SERVER_AUTH, tmp_path, authority, "f" * 16, now_ns)
    here, there = _handshake(server, client, f"{NODE}.ollamamax")
    assert ((("commonName", NODE),)) in here.getpeercert()["subject"]  # type: ignore[index, operator]
    assert ((("commonName", "f" * 16),)) in there.getpeercert()["subject"]  # type: ignore[index, operator]
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _handshake(server, client, f"{'e' * 16}.ollamamax")


@pytest.mark.parametrize("age_days", [8, -2], ids=["expired", "from the future"])
def test_old_and_future_certificates_fail_in_the_handshake(tmp_path: Path, age_days: int) -> None:
    now_ns = int(datetime.now(UTC).timestamp() * 1e9)
    day_ns = 86_400 * 10**9
    authority = FileAuthority.create(tmp_path / "cluster", CLUSTER, "home", None, now_ns - 9 * day_ns)
    server = _context(ssl.Purpose.CLIENT_AUTH, tmp_path, authority, NODE, now_ns - age_days * day_ns)
    client = _context(ssl.Purpose.SERVER_AUTH, tmp_path, authority, "f" * 16, now_ns)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"expired|not yet valid"):
        _handshake(server, client, f"{NODE}.ollamamax")


def test_an_authority_of_the_same_name_is_not_believed(tmp_path: Path) -> None:
    now_ns = int(datetime.now(UTC).timestamp() * 1e9)
    ours = FileAuthority.create(tmp_path / "ours", CLUSTER, "home", None, now_ns)
    theirs = FileAuthority.create(tmp_path / "theirs", CLUSTER, "home", None, now_ns)
    server = _context(ssl.Purpose.CLIENT_AUTH, tmp_path, theirs, NODE, now_ns)
    client = _context(ssl.Purpose.SERVER_AUTH, tmp_path, ours, "f" * 16, now_ns)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(server, client, f"{NODE}.ollamamax")


def test_etcds_certificates_are_of_a_name_of_their_own(authority: FileAuthority) -> None:
    key, pem = authority.sign_etcd(("10.0.0.1", "::1", "box.lan", "10.0.0.1"), NOW_NS)
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.public_key() == load_pem_private_key(key, None).public_key()
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == etcd_name(CLUSTER)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    assert names.get_values_for_type(x509.DNSName) == ["box.lan"]
    assert certificate.not_valid_after_utc == NOW + 7 * DAY


@pytest.mark.parametrize("passphrase", [None, "a secret"])
def test_a_shared_key_signs_as_the_first_one_does(
    authority: FileAuthority, tmp_path: Path, passphrase: str | None
) -> None:
    ring = FileKeyRing(tmp_path / "second", authority.certificate, passphrase, None)
    assert ring.authority is None
    ring.take(authority.export(), authority.certificate)
    assert ring.authority is not None
    assert ring.authority.key_hash == authority.key_hash
    key_file = tmp_path / "second" / "ca.key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert (b"ENCRYPTED" in key_file.read_bytes()) == (passphrase is not None)
    again = FileAuthority.load(tmp_path / "second", passphrase)
    assert again is not None
    assert again.export() == authority.export()
    ring.take(authority.export(), authority.certificate)  # as often as one likes


def test_a_key_of_others_is_not_taken(authority: FileAuthority, tmp_path: Path) -> None:
    theirs = FileAuthority.create(tmp_path / "theirs", CLUSTER, "home", None, NOW_NS)
    ring = FileKeyRing(tmp_path / "second", authority.certificate, None, None)
    with pytest.raises(StoreError, match="another cluster's"):
        ring.take(theirs.export(), theirs.certificate)
    with pytest.raises(StoreError, match="does not fit"):
        ring.take(theirs.export(), authority.certificate)
    assert not (tmp_path / "second" / "ca.key").exists()
