"""A node's identity on disk: `<home>/cluster/` with identity.json, node.key (0600), node.crt and ca.crt.

joined.state: the cluster's state as of the joining (MessagePack), for a node that never heard of a later one.

Several files change together, so they are replaced by way of a directory beside it: the new files are written to
`cluster.next.tmp`, synced, and that is renamed to `cluster.next`, which is the moment it counts. Then each file is
moved to its place. load() finishes what a crash left undone there.
"""

import os
import shutil
import threading
from pathlib import Path
from typing import Final

import msgspec

from ollamamax.adapters import disk
from ollamamax.adapters.identity import papers
from ollamamax.core.errors import CertificateRefused, StoreError
from ollamamax.core.types import StateRange
from ollamamax.core.types.state import MAX_STATE_BYTES
from ollamamax.ports import CertificateFacts, Identity, NodeKeys

IDENTITY_FILE: Final = "identity.json"
KEY_FILE: Final = "node.key"
CERTIFICATE_FILE: Final = "node.crt"
CA_FILE: Final = "ca.crt"
STATE_FILE: Final = "joined.state"
_FORMAT: Final = 1
_MODES: Final = {
    KEY_FILE: disk.SECRET_MODE,
    CERTIFICATE_FILE: disk.PUBLIC_MODE,
    CA_FILE: disk.PUBLIC_MODE,
    STATE_FILE: disk.SECRET_MODE,
    IDENTITY_FILE: disk.PUBLIC_MODE,  # last: where there is one, all others are there
}
_LARGEST_STATE_BYTES: Final = 2 * MAX_STATE_BYTES
_REMEDY: Final = "restore it from a backup, or move the directory away and join anew: `ollamamax join TOKEN`"


class _Remembered(msgspec.Struct, forbid_unknown_fields=True):
    """identity.json."""

    format: int
    cluster_id: str
    node_id: str
    name: str
    holder_id: str
    joined_ns: int


class _Format(msgspec.Struct):
    format: int


class FileIdentityStore:
    """An IdentityStore in one directory, which need not exist yet. Safe to call from several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._next = directory.with_name(f"{directory.name}.next")
        self._unfinished = directory.with_name(f"{directory.name}.next.tmp")
        self._lock = threading.Lock()

    def load(self) -> Identity | None:
        """None if this node belongs to no cluster yet. Papers that have expired are loaded all the same.

        Raises: StoreError if what is there is damaged, or if its key may be read by others.
        """
        with self._lock, disk.explained(self._directory):
            return self._load()

    def save(self, identity: Identity, state: StateRange | None = None) -> None:
        """Keep it. A crash leaves the old one or the new one. That of another cluster is moved aside, all it had too.

        state: of the cluster when this node joined; kept with it, so that the node knows where the others are.
        Raises: DiskFull, StoreReadOnly, StoreError.
        """
        remembered = _Remembered(
            _FORMAT, identity.cluster_id, identity.node_id, identity.name, identity.holder_id, identity.joined_ns
        )
        contents = {
            KEY_FILE: identity.keys.private_key,
            CERTIFICATE_FILE: identity.keys.certificate,
            CA_FILE: identity.keys.ca,
            IDENTITY_FILE: msgspec.json.format(msgspec.json.encode(remembered), indent=2),
        }
        if state is not None:
            contents[STATE_FILE] = msgspec.msgpack.encode(state)
        with self._lock, disk.explained(self._directory):
            self._commit(contents)

    def joined_state(self) -> StateRange | None:
        """What save() got last. Raises: StoreError if it is damaged."""
        path = self._directory / STATE_FILE
        with self._lock, disk.explained(self._directory):
            self._roll_forward()
            data = disk.read_file(path, _LARGEST_STATE_BYTES)
        if data is None:
            return None
        try:
            return msgspec.msgpack.decode(data, type=StateRange)
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"{path} is damaged ({error}): move it away and join anew: `ollamamax join TOKEN`"
            ) from error

    def replace_certificate(self, certificate: bytes) -> Identity:
        """A new certificate for the key that is there; the identity with it.

        Raises: CertificateRefused if it does not fit that key, authority, node and cluster; StoreError.
        """
        with self._lock, disk.explained(self._directory):
            old = self._load()
            if old is None:
                raise StoreError(f"{self._directory} holds no identity whose certificate could be replaced")
            keys = self.bind(old.keys.private_key, certificate, old.keys.ca)
            if keys.node_id != old.node_id:
                raise CertificateRefused(f"the new certificate is that of node {keys.node_id}, not of {old.node_id}")
            self._commit({CERTIFICATE_FILE: keys.certificate})
            return msgspec.structs.replace(old, keys=keys)

    def forget(self) -> None:
        """Belong to no cluster: what is there is moved to `cluster.old-<n>`, not deleted. Raises: StoreError."""
        with self._lock, disk.explained(self._directory):
            self._roll_forward()
            self._move_aside()

    def new_key(self) -> tuple[bytes, bytes]:
        """A new private key and a signing request for it, PEM."""
        return papers.new_key()

    def request(self, private_key: bytes) -> bytes:
        """A signing request (PEM) for a key that is there."""
        return papers.request(private_key)

    def facts(self, certificate: bytes) -> CertificateFacts:
        """Of exactly one certificate. Raises: CertificateRefused if it is anything else."""
        return papers.certificate_facts(certificate)

    def bind(self, private_key: bytes, certificate: bytes, ca: bytes) -> NodeKeys:
        """Papers that belong together. Raises: CertificateRefused if they do not. Does not look at the time."""
        return papers.bind(private_key, certificate, ca)

    def _load(self) -> Identity | None:
        self._roll_forward()
        remembered = self._remembered()
        if remembered is None:
            return None
        private_key = disk.read_secret(self._directory / KEY_FILE)
        certificate = disk.read_file(self._directory / CERTIFICATE_FILE)
        ca = disk.read_file(self._directory / CA_FILE)
        try:
            if private_key is None or certificate is None or ca is None:
                raise CertificateRefused("one of them is missing")
            keys = self.bind(private_key, certificate, ca)
        except CertificateRefused as error:
            raise StoreError(f"the papers in {self._directory} are damaged ({error}): {_REMEDY}") from error
        if (keys.node_id, keys.cluster_id) != (remembered.node_id, remembered.cluster_id):
            raise StoreError(f"the papers in {self._directory} are those of another node: {_REMEDY}")
        return Identity(
            cluster_id=remembered.cluster_id,
            node_id=remembered.node_id,
            name=remembered.name,
            holder_id=remembered.holder_id,
            joined_ns=remembered.joined_ns,
            keys=keys,
        )

    def _remembered(self) -> _Remembered | None:
        path = self._directory / IDENTITY_FILE
        data = disk.read_file(path)
        if data is None:
            # A crash can't cause that. A node that took it for "none yet" would found a cluster of its own.
            if (self._directory / KEY_FILE).exists():
                raise StoreError(f"{path} is missing: {_REMEDY}")
            return None
        try:
            if (written := msgspec.json.decode(data, type=_Format).format) != _FORMAT:
                raise StoreError(f"{path} was written by another version of OllamaMax (format {written})")
            return msgspec.json.decode(data, type=_Remembered)
        except msgspec.MsgspecError as error:
            raise StoreError(f"{path} is damaged ({error}): {_REMEDY}") from error

    def _commit(self, contents: dict[str, bytes]) -> None:
        self._roll_forward()
        if self._unfinished.exists():
            shutil.rmtree(self._unfinished)
        self._unfinished.mkdir(mode=0o700, parents=True)
        for name, data in contents.items():
            disk.write_new(self._unfinished / name, data, _MODES[name])
        disk.sync(self._unfinished)
        os.rename(self._unfinished, self._next)
        disk.sync(self._next.parent)
        self._roll_forward()

    def _roll_forward(self) -> None:
        if not self._next.is_dir():
            return
        if self._is_of_another_cluster():
            self._move_aside()
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for name in _MODES:
            if (self._next / name).exists():
                os.replace(self._next / name, self._directory / name)
        disk.sync(self._directory)
        self._next.rmdir()
        disk.sync(self._next.parent)

    def _is_of_another_cluster(self) -> bool:
        """Another authority is another cluster; its key, if that lies here too, must not mix with the new papers."""
        old, new = self._directory / CA_FILE, self._next / CA_FILE
        if not old.exists() or not new.exists():
            return False
        try:
            return self.facts(old.read_bytes()).key_hash != self.facts(new.read_bytes()).key_hash
        except CertificateRefused:
            return True

    def _move_aside(self) -> None:
        if self._directory.exists():
            os.rename(self._directory, disk.aside(self._directory))
            disk.sync(self._directory.parent)
