"""A node's identity on disk: kept whole through crashes, refused when damaged, never deleted."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamamax.adapters.identity import papers
from ollamamax.adapters.identity.authority import FileAuthority
from ollamamax.adapters.identity.node_identity import FileIdentityStore
from ollamamax.core.errors import CertificateRefused, DiskFull, StoreError
from ollamamax.core.types import StateEntry, StateRange
from ollamamax.ports import Identity

NOW_NS = 1_800_000_000_000_000_000
NODE = "0123456789abcdef"
_value = st.none() | st.integers(-2, 2) | st.text(max_size=9)
_json = st.dictionaries(st.sampled_from(["format", "cluster_id", "node_id", "name", "holder_id", "joined_ns"]), _value)


class World:
    """Two clusters that can give papers, and a node's home."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.directory = self.home / "cluster"
        self.authorities = {
            cluster: FileAuthority.create(folder / cluster, cluster, "x", None, NOW_NS)
            for cluster in ("a" * 16, "b" * 16)
        }

    @property
    def store(self) -> FileIdentityStore:
        return FileIdentityStore(self.directory)

    def identity(self, cluster: str = "a" * 16, name: str = "box", node_id: str = NODE) -> Identity:
        authority = self.authorities[cluster]
        key, request = papers.new_key()
        keys = papers.bind(key, authority.sign(request, node_id, NOW_NS), authority.certificate)
        return Identity(cluster_id=cluster, node_id=node_id, name=name, holder_id="f" * 16, joined_ns=NOW_NS, keys=keys)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_saved_is_loaded(world: World) -> None:
    assert world.store.load() is None
    identity = world.identity()
    world.store.save(identity)
    assert world.store.load() == identity
    modes = {path.name: path.stat().st_mode & 0o777 for path in world.directory.iterdir()}
    assert modes == {"node.key": 0o600, "node.crt": 0o644, "ca.crt": 0o644, "identity.json": 0o644}
    assert [path.name for path in world.home.iterdir()] == ["cluster"]
    written = msgspec.json.decode((world.directory / "identity.json").read_bytes())
    assert written == {
        "format": 1,
        "cluster_id": "a" * 16,
        "node_id": NODE,
        "name": "box",
        "holder_id": "f" * 16,
        "joined_ns": NOW_NS,
    }


def test_the_state_of_the_joining_is_kept(world: World) -> None:
    assert world.store.joined_state() is None
    state = StateRange(7, (StateEntry("nodes/x", b"{}", 3, 5),))
    world.store.save(world.identity(), state)
    assert world.store.joined_state() == state
    path = world.directory / "joined.state"
    assert path.stat().st_mode & 0o777 == 0o600
    world.store.save(world.identity(name="renamed"))
    assert world.store.joined_state() == state
    path.write_bytes(b"junk")
    with pytest.raises(StoreError, match=r"joined\.state is damaged"):
        world.store.joined_state()
    world.store.save(world.identity("b" * 16))
    assert world.store.joined_state() is None


def test_a_certificate_is_replaced(world: World) -> None:
    old = world.identity()
    world.store.save(old)
    request = world.store.request(old.keys.private_key)
    certificate = world.authorities["a" * 16].sign(request, NODE, NOW_NS + 10**15)
    new = world.store.replace_certificate(certificate)
    assert new == world.store.load()
    assert new.keys.certificate == certificate
    assert new.keys.expires_ns > old.keys.expires_ns
    assert new.keys.private_key == old.keys.private_key


def test_a_certificate_that_does_not_fit_is_not_kept(world: World) -> None:
    old = world.identity()
    world.store.save(old)
    request = world.store.request(old.keys.private_key)
    ours, theirs = world.authorities.values()
    for wrong in (
        theirs.sign(request, NODE, NOW_NS),
        ours.sign(request, "e" * 16, NOW_NS),
        ours.sign(papers.new_key()[1], NODE, NOW_NS),
        b"junk",
    ):
        with pytest.raises(CertificateRefused):
            world.store.replace_certificate(wrong)
        assert world.store.load() == old


def test_another_cluster_moves_all_of_the_old_one_aside(world: World) -> None:
    FileAuthority.create(world.directory, "c" * 16, "founded here", None, NOW_NS)
    key = (world.directory / "ca.key").read_bytes()
    authority = FileAuthority.load(world.directory, None)
    assert authority is not None
    world.authorities["c" * 16] = authority
    founded, joined = world.identity("c" * 16), world.identity("b" * 16)
    world.store.save(founded)
    world.store.save(world.identity("c" * 16, name="renamed"))
    assert (world.directory / "ca.key").read_bytes() == key, "the same cluster: the authority stays"
    world.store.save(joined)
    assert world.store.load() == joined
    assert not (world.directory / "ca.key").exists()
    assert (world.home / "cluster.old-1" / "ca.key").read_bytes() == key
    assert (world.home / "cluster.old-1" / "identity.json").exists()


def test_forgetting_deletes_nothing(world: World) -> None:
    world.store.forget()
    for count in (1, 2):
        identity = world.identity()
        world.store.save(identity)
        world.store.forget()
        assert world.store.load() is None
        assert FileIdentityStore(world.home / f"cluster.old-{count}").load() == identity


# Crashes


class _PowerCut(BaseException):
    """Nothing catches it; nothing that is tried after it has an effect."""


class _Power:
    """Cuts the power before the n-th change of the disk."""

    def __init__(self, after: int, patch: pytest.MonkeyPatch) -> None:
        self.left = after
        for name in ("rename", "replace", "mkdir", "rmdir", "unlink", "open", "fsync"):
            patch.setattr(os, name, self._guarded(getattr(os, name)))

    def _guarded(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.left <= 0:
                raise _PowerCut
            self.left -= 1
            return real(*args, **kwargs)

        return call


def _cut(after: int, work: Callable[[], object]) -> bool:
    """Do it with a power cut before so many steps; False if it was over by then."""
    with pytest.MonkeyPatch.context() as patch:
        power = _Power(after, patch)
        try:
            work()
        except _PowerCut:
            return True
        return power.left <= 0


def _outcomes(
    tmp_path: Path, prepare: Callable[[World], object], work: Callable[[World], object]
) -> list[Identity | None]:
    """What a restart finds after a cut at each step; a second cut, while it recovers, changes nothing of that."""
    found: list[Identity | None] = []
    for after in range(100):
        folder = tmp_path / str(after)
        folder.mkdir()
        world = World(folder)
        prepare(world)
        was_cut = _cut(after, lambda world=world: work(world))  # type: ignore[misc]
        for again in range(20):
            if not _cut(again, lambda world=world: world.store.load()):  # type: ignore[misc]
                break
        found.append(world.store.load())
        if not was_cut:
            return found
    raise AssertionError("it never came to an end")


def _names(found: list[Identity | None]) -> list[str]:
    """Without repeats: how it went from the old to the new."""
    names = [one.name if one else "" for one in found]
    return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


def test_a_crash_while_first_saved(tmp_path: Path) -> None:
    found = _outcomes(tmp_path, lambda _: None, lambda world: world.store.save(world.identity(name="new")))
    assert len(found) > 12, "each step was tried"
    assert _names(found) == ["", "new"]


def test_a_crash_while_another_cluster_is_joined(tmp_path: Path) -> None:
    found = _outcomes(
        tmp_path,
        lambda world: world.store.save(world.identity("a" * 16, name="old")),
        lambda world: world.store.save(world.identity("b" * 16, name="new"), StateRange(1, ())),
    )
    assert len(found) > 12
    assert _names(found) == ["old", "new"]
    assert all(one is not None and one.cluster_id == ("a" if one.name == "old" else "b") * 16 for one in found)


def test_a_crash_while_joined_anew_with_another_key(tmp_path: Path) -> None:
    found = _outcomes(
        tmp_path,
        lambda world: world.store.save(world.identity(name="old")),
        lambda world: world.store.save(world.identity(name="new")),
    )
    assert _names(found) == ["old", "new"]


def test_a_crash_while_renewed(tmp_path: Path) -> None:
    def renew(world: World) -> None:
        private_key = (world.directory / "node.key").read_bytes()
        request = papers.request(private_key)
        certificate = world.authorities["a" * 16].sign(request, NODE, NOW_NS + 10**15)
        world.store.replace_certificate(certificate)

    found = _outcomes(tmp_path, lambda world: world.store.save(world.identity()), renew)
    assert len({one.keys.expires_ns for one in found if one}) == 2
    assert None not in found


def test_a_full_disk_leaves_the_old_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = world.identity(name="old")
    world.store.save(old)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match="cluster"):
            world.store.save(world.identity(name="new"))
    assert world.store.load() == old


# Damage


def test_a_key_that_others_may_read_is_refused(world: World) -> None:
    world.store.save(world.identity())
    (world.directory / "node.key").chmod(0o640)
    with pytest.raises(StoreError, match=r"node\.key may be read by other users .*chmod 600"):
        world.store.load()


@pytest.mark.parametrize("name", ["node.key", "node.crt", "ca.crt", "identity.json"])
@pytest.mark.parametrize(
    "data", [None, b"", b"{}", b"\xff" * 100, b"x" * 100_000], ids=["gone", "empty", "{}", "ff", "big"]
)
def test_damage_is_named_and_left_alone(world: World, name: str, data: bytes | None) -> None:
    world.store.save(world.identity())
    path = world.directory / name
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged|missing") as told:
        world.store.load()
    assert str(world.directory) in str(told.value)
    assert (path.read_bytes() if path.exists() else None) == data


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode), _json.map(msgspec.json.encode)))
@settings(max_examples=150, deadline=None)
def test_whatever_identity_json_holds_our_error_is_raised(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster" / "identity.json"
        path.parent.mkdir()
        path.write_bytes(data)
        with pytest.raises(StoreError, match=r"damaged|another version"):
            FileIdentityStore(path.parent).load()


def test_papers_of_another_node_are_refused(world: World) -> None:
    world.store.save(world.identity())
    path = world.directory / "identity.json"
    path.write_text(path.read_text().replace(NODE, "e" * 16))
    with pytest.raises(StoreError, match="another node"):
        world.store.load()


def test_a_newer_format_is_told_as_such(world: World) -> None:
    world.store.save(world.identity())
    path = world.directory / "identity.json"
    path.write_text('{"format": 2, "something": "new"}')
    with pytest.raises(StoreError, match=r"another version .*format 2"):
        world.store.load()


def test_a_certificate_can_only_be_replaced_where_there_is_one(world: World) -> None:
    with pytest.raises(StoreError, match="no identity"):
        world.store.replace_certificate(b"")


def test_a_home_that_cannot_be_written_is_named(world: World) -> None:
    world.home.joinpath("cluster").write_text("a file where a directory should be")
    with pytest.raises(StoreError, match="cluster"):
        world.store.save(world.identity())
