"""What a node keeps for its members of etcd: remembered, certified, removed, missed when it is gone."""

import stat
from datetime import timedelta
from pathlib import Path

import pytest

from ollamamax.adapters.identity.authority import FileAuthority
from ollamamax.adapters.state.etcd_seats import EtcdSeatsOnDisk
from ollamamax.core.errors import StoreError
from ollamamax.core.types import EtcdSpec, Seat

NOW_NS = 1_800_000_000_000_000_000
DAY_NS = 86_400 * 10**9
SEAT = Seat(members={"n1": ("10.0.0.1:11437",)})
SPEC = EtcdSpec(
    name="n1",
    data_dir="",
    client_listen="127.0.0.1:11438",
    peer_listen="0.0.0.0:11437",
    peer_addresses=("10.0.0.1:11437",),
    members=SEAT.members,
    token="t",
)


@pytest.fixture
def seats(tmp_path: Path) -> EtcdSeatsOnDisk:
    return EtcdSeatsOnDisk(tmp_path / "etcd")


async def test_what_is_kept_is_there_at_the_next_start(seats: EtcdSeatsOnDisk, tmp_path: Path) -> None:
    assert await seats.all() == {}
    await seats.keep(3, SEAT)
    await seats.keep(4, Seat(members={}, is_joining=True, was_started=True))
    again = EtcdSeatsOnDisk(tmp_path / "etcd")
    assert dict(await again.all()) == {3: SEAT, 4: Seat(members={}, is_joining=True, was_started=True)}
    await again.remove(3)
    await again.remove(3)
    assert list(await seats.all()) == [4]
    assert await seats.free_bytes() > 0


async def test_data_of_a_member_that_was_never_remembered_go(seats: EtcdSeatsOnDisk, tmp_path: Path) -> None:
    left = tmp_path / "etcd" / "3" / "data" / "member"
    left.mkdir(parents=True)
    assert await seats.all() == {}
    await seats.keep(3, SEAT)
    assert not left.exists()


async def test_a_member_whose_data_are_gone_is_not_started_as_if_it_were_new(
    seats: EtcdSeatsOnDisk, tmp_path: Path
) -> None:
    started = Seat(members=SEAT.members, was_started=True)
    assert seats.spec(3, SEAT, SPEC).data_dir == str(tmp_path / "etcd" / "3" / "data")
    with pytest.raises(StoreError, match="ha replace"):
        seats.spec(3, started, SPEC)
    (tmp_path / "etcd" / "3" / "data" / "member").mkdir(parents=True)
    assert seats.spec(3, started, SPEC).peer_addresses == SPEC.peer_addresses


async def test_a_damaged_one_is_told_of(seats: EtcdSeatsOnDisk, tmp_path: Path) -> None:
    await seats.keep(3, SEAT)
    (tmp_path / "etcd" / "3" / "seat.json").write_bytes(b"{")
    with pytest.raises(StoreError, match="damaged"):
        await seats.all()


async def test_papers_are_renewed_at_half_their_life(seats: EtcdSeatsOnDisk, tmp_path: Path) -> None:
    authority = FileAuthority.create(tmp_path / "ca", "c0ffee00c0ffee00", "home", None, NOW_NS)
    await seats.keep(3, SEAT)

    async def certify(now_ns: int) -> bool:
        hosts = ("10.0.0.1", "localhost")
        return await seats.certify(3, authority.certificate, now_ns, lambda: authority.sign_etcd(hosts, now_ns))

    assert await certify(NOW_NS)
    access = seats.access(3, "127.0.0.1:1")
    assert (access.endpoints, Path(access.ca).read_bytes()) == (("127.0.0.1:1",), authority.certificate)
    assert stat.S_IMODE(Path(access.key).stat().st_mode) == 0o600
    assert not await certify(NOW_NS + 2 * DAY_NS)
    assert await certify(NOW_NS + timedelta(days=4) // timedelta(microseconds=1) * 1000)
    Path(access.certificate).write_bytes(b"garbage")
    assert await certify(NOW_NS)
