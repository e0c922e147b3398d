"""Members of etcd that come, get a vote, move and go, over TLS; and what of a cluster can be saved from one."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import pytest
from msgspec.structs import replace

import etcds
from certificates import Authority
from ollamamax.adapters.state.etcd_members import Members
from ollamamax.adapters.state.etcd_process import Child
from ollamamax.core.errors import Conflict, NotFound, StateError, StateUnavailable
from ollamamax.core.types import EtcdProgram, EtcdSpec, Put, StateTxn
from peer_world import bounded

_T = TypeVar("_T")


def with_papers(authority: Authority, spec: EtcdSpec, name: str = "etcd.c1") -> EtcdSpec:
    certificate, key = map(str, authority.issue(name, "127.0.0.1"))
    return replace(spec, ca=str(authority.path), certificate=certificate, key=key, peer_name="etcd.c1")


def joining(spec: EtcdSpec, *running: EtcdSpec) -> EtcdSpec:
    members = {one.name: one.peer_addresses for one in (spec, *running)}
    return replace(spec, members=members, is_joining=True)


async def persevere(act: Callable[[], Awaitable[_T]]) -> _T:
    """Until etcd finds all its members well, which takes it five seconds after a change."""
    while True:
        try:
            return await act()
        except StateUnavailable:
            await asyncio.sleep(0.1)


async def test_one_grows_to_three_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    specs = [with_papers(authority, spec) for spec in etcds.specs(tmp_path, 4)]
    first = replace(specs[0], members={specs[0].name: specs[0].peer_addresses})
    async with asyncio.timeout(120), AsyncExitStack() as stack:
        await stack.enter_async_context(etcds.running(first))
        members = await Members.open(etcds.access(first))
        stack.push_async_callback(members.close)
        store = await stack.enter_async_context(etcds.state(etcds.access(first), "c"))
        assert (await store.txn(StateTxn((), (Put("a", b"1"),)))).ok
        children: dict[str, Child] = {}

        async def take_in(spec: EtcdSpec, *others: EtcdSpec) -> None:
            added = await persevere(lambda: members.add_learner(spec.peer_addresses))
            assert (added.is_learner, added.peer_addresses) == (True, spec.peer_addresses)
            with pytest.raises(Conflict, match="a member at that address"):
                await members.add_learner(spec.peer_addresses)
            [children[spec.name]] = await stack.enter_async_context(etcds.running(joining(spec, *others)))
            await persevere(lambda: members.promote(added.member_id))
            with pytest.raises(Conflict, match="its vote already"):
                await members.promote(added.member_id)

        await take_in(specs[1], first)
        await take_in(specs[2], first, specs[1])
        known = await members.members()
        assert {(one.name, one.is_learner) for one in known} == {("m0", False), ("m1", False), ("m2", False)}

        dead = next(one for one in known if one.name == "m2")
        await children["m2"].stop()
        assert (await store.txn(StateTxn((), (Put("a", b"2"),)))).ok
        await persevere(lambda: members.remove(dead.member_id))
        await members.remove(dead.member_id)  # it is none any more
        await take_in(specs[3], first, specs[1])

        heir = next(one for one in await members.members() if one.name == "m3")
        await members.move_leader(heir.member_id)
        with pytest.raises(StateError, match="leader"):
            await members.move_leader(heir.member_id)
        while (await members.status()).leader_id != heir.member_id:
            await asyncio.sleep(0.05)
        await members.update(heir.member_id, (*heir.peer_addresses, "127.0.0.1:1"))
        moved = next(one for one in await members.members() if one.name == "m3")
        assert set(moved.peer_addresses) == {*heir.peer_addresses, "127.0.0.1:1"}
        for call in (members.promote(1), members.update(1, ("127.0.0.1:1",))):
            with pytest.raises(NotFound):
                await call
        async with etcds.state(etcds.access(specs[3]), "c", None) as through:
            entry = await through.get("a", linearizable=True)
            assert entry is not None
            assert entry.value == b"2"


async def test_who_has_another_name_is_no_member(tmp_path: Path) -> None:
    """Signed by the same authority, as every node's own certificate is."""
    authority = Authority(tmp_path)
    one, other = (with_papers(authority, spec) for spec in etcds.specs(tmp_path, 2))
    one = replace(one, members={one.name: one.peer_addresses})
    async with asyncio.timeout(120), etcds.running(one):
        members = await Members.open(etcds.access(one))
        await members.add_learner(other.peer_addresses)
        await members.close()
        stranger = with_papers(authority, joining(other, one), name="0123456789abcdef")
        child = await Child.start(EtcdProgram(etcds.etcd_path(), ""), stranger, first_pause_s=0.2)
        with pytest.raises(StateUnavailable, match="was not ready"):
            await child.ready(3_000)
        await child.stop()
        async with etcds.running(joining(other, one)):
            pass


@bounded
async def test_what_is_left_of_a_cluster_goes_on_as_one(tmp_path: Path) -> None:
    specs = etcds.specs(tmp_path, 3)
    async with etcds.running(*specs), etcds.state(etcds.access(specs[0]), "c") as store:
        assert (await store.txn(StateTxn((), (Put("a", b"1"),)))).ok
    async with etcds.running(replace(specs[0], force_new=True)) as [child]:
        members = await Members.open(etcds.access(specs[0]))
        assert [one.name for one in await members.members()] == ["m0"]
        os.kill(child.pid, signal.SIGKILL)  # it does not begin anew a second time
        await child.ready(etcds.LIMIT_MS)
        await members.close()
        async with etcds.state(etcds.access(specs[0]), "c", None) as store:
            assert (await store.range("", linearizable=True)).revision == 1


@bounded
async def test_without_a_majority_nothing_is_written_and_all_comes_back(tmp_path: Path) -> None:
    specs = etcds.specs(tmp_path, 3)
    async with etcds.running(*specs) as children, etcds.state(etcds.access(specs[0]), "c") as store:
        assert (await store.txn(StateTxn((), (Put("a", b"0"),)))).ok
        members = await Members.open(etcds.access(specs[0]))
        for child in children[1:]:
            os.kill(child.pid, signal.SIGSTOP)
        try:
            while (await members.status()).leader_id:
                await asyncio.sleep(0.05)
            assert len((await store.range("")).entries) == 1  # what it knew last
            assert len(await members.members()) == 3
            with pytest.raises(StateUnavailable):
                await store.txn(StateTxn((), (Put("a", b"1"),)))
            with pytest.raises(StateUnavailable):
                await store.get("a", linearizable=True)
        finally:
            for child in children[1:]:
                os.kill(child.pid, signal.SIGCONT)
        assert (await persevere(lambda: store.txn(StateTxn((), (Put("b", b"2"),))))).ok
        await members.close()
