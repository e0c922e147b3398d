"""What a node keeps for its members of etcd: `etcd/<generation>/` with `seat.json`, `data/` and `tls/`."""

import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509

from ollamamax.adapters.disk import PUBLIC_MODE, SECRET_MODE, explained, free_bytes, in_thread, read_file, write_file
from ollamamax.core.errors import StoreError
from ollamamax.core.types import EtcdAccess, EtcdSpec, Seat

_SEAT: Final = "seat.json"


class EtcdSeatsOnDisk:
    """EtcdSeats below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def all(self) -> Mapping[int, Seat]:
        """What keep() got last. Raises: StoreError."""
        return await in_thread(self._all)

    async def keep(self, generation: int, seat: Seat) -> None:
        """Remember it. Raises: DiskFull, StoreReadOnly, StoreError."""
        await in_thread(self._keep, generation, seat)

    async def remove(self, generation: int) -> None:
        """Forget all of it. Raises: StoreError."""
        await in_thread(self._remove, generation)

    async def certify(self, generation: int, ca: bytes, now_ns: int, issue: Callable[[], tuple[bytes, bytes]]) -> bool:
        """New papers if they are due. Raises: DiskFull, StoreReadOnly, StoreError, and what `issue` raises."""
        return await in_thread(self._certify, generation, ca, now_ns, issue)

    def access(self, generation: int, endpoint: str) -> EtcdAccess:
        """How its own member is reached."""
        ca, certificate, key = self._papers(generation)
        return EtcdAccess(endpoints=(endpoint,), ca=str(ca), certificate=str(certificate), key=str(key))

    def spec(self, generation: int, seat: Seat, spec: EtcdSpec) -> EtcdSpec:
        """With this generation's files. Raises: StoreError if its data are gone."""
        data = self._directory / str(generation) / "data"
        if seat.was_started and not (data / "member").exists():
            raise StoreError(
                f"the data of this node's etcd are gone ({data}): let it begin anew by `ollamamax cluster ha replace`"
            )
        ca, certificate, key = self._papers(generation)
        return msgspec.structs.replace(spec, data_dir=str(data), ca=str(ca), certificate=str(certificate), key=str(key))

    async def free_bytes(self) -> int:
        """Of the disk that they lie on."""
        return await in_thread(free_bytes, self._directory / _SEAT)

    def _papers(self, generation: int) -> tuple[Path, Path, Path]:
        tls = self._directory / str(generation) / "tls"
        return tls / "ca.crt", tls / "etcd.crt", tls / "etcd.key"

    def _all(self) -> dict[int, Seat]:
        found: dict[int, Seat] = {}
        with explained(self._directory):
            names = [path.name for path in self._directory.iterdir()] if self._directory.is_dir() else []
        for name in names:
            if name.isdigit() and (data := read_file(self._directory / name / _SEAT)) is not None:
                try:
                    found[int(name)] = msgspec.json.decode(data, type=Seat)
                except msgspec.MsgspecError as error:
                    raise StoreError(f"{self._directory / name / _SEAT} is damaged: {error}") from error
        return found

    def _keep(self, generation: int, seat: Seat) -> None:
        directory = self._directory / str(generation)
        with explained(directory):
            if directory.exists() and not (directory / _SEAT).exists():
                shutil.rmtree(directory)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(directory / _SEAT, msgspec.json.encode(seat), SECRET_MODE)

    def _remove(self, generation: int) -> None:
        directory = self._directory / str(generation)
        with explained(directory):
            (directory / _SEAT).unlink(missing_ok=True)  # first: what is left after a crash is nobody's then
            if directory.exists():
                shutil.rmtree(directory)

    def _certify(self, generation: int, ca: bytes, now_ns: int, issue: Callable[[], tuple[bytes, bytes]]) -> bool:
        ca_path, certificate_path, key_path = self._papers(generation)
        held = read_file(certificate_path)
        if held is not None and key_path.exists() and ca_path.exists() and not _is_due(held, now_ns):
            return False
        key, certificate = issue()
        with explained(ca_path):
            ca_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(ca_path, ca, PUBLIC_MODE)
            write_file(key_path, key, SECRET_MODE)
            write_file(certificate_path, certificate, PUBLIC_MODE)
        return True


def _is_due(certificate: bytes, now_ns: int) -> bool:
    try:
        held = x509.load_pem_x509_certificate(certificate)
    except ValueError:
        return True
    ends = held.not_valid_after_utc
    return datetime.fromtimestamp(now_ns / 1e9, tz=UTC) >= ends - (ends - held.not_valid_before_utc) / 2
