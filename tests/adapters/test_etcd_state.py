"""The state in etcd: where revisions count from; and what is told of one that is away, full, slow or a stranger."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
from msgspec.structs import replace

import etcds
from certificates import Authority
from free_ports import free_port
from ollamamax.adapters.state.etcd_client import EtcdClient
from ollamamax.adapters.state.etcd_members import Members
from ollamamax.adapters.state.etcd_state import EtcdState
from ollamamax.core.errors import (
    CertificateRefused,
    DiskFull,
    LeaseNotFound,
    StateCompacted,
    StateCorrupt,
    StateElsewhere,
    StateError,
    StateUnavailable,
)
from ollamamax.core.types import Compare, Delete, EtcdAccess, Put, StateBatch, StateEntry, StateTxn, TxnResult
from peer_world import bounded


def put(key: str, value: bytes = b"", lease_id: int = 0) -> StateTxn:
    return StateTxn((), (Put(key, value, lease_id),))


async def heard(store: EtcdState, after: int, count: int) -> list[int]:
    """Revisions of the next changes."""
    found: list[int] = []
    async with aclosing(store.watch("", after)) as batches:
        async for batch in batches:
            found += [batch.revision] if batch.events else []
            if len(found) == count:
                break
    return found


# --- revisions ------------------------------------------------------------------------------------------------


@bounded
async def test_a_state_that_moves_here_goes_on_counting_and_finds_the_place_empty() -> None:
    async with etcds.state(etcds.shared()) as store:
        await store.txn(put("old"))
        assert await store.begin(5_000) == 5_001
        assert await store.range("") == await store.range("", linearizable=True)
        assert (await store.range("")).entries == ()
        assert await store.txn(put("a", b"1")) == TxnResult(True, 5_002)
        assert await store.get("a") == StateEntry("a", b"1", 5_002, 5_002)
        assert await store.txn(StateTxn((Compare("a", 5_002),), (Delete("a"),))) == TxnResult(True, 5_003)
        assert await heard(store, 5_001, 2) == [5_002, 5_003]
        assert await store.check() == 5_003


@bounded
async def test_who_knew_the_place_before_finds_out_that_it_was_begun_anew() -> None:
    place = secrets.token_hex(8)
    async with etcds.state(etcds.shared(), place) as mover, etcds.state(etcds.shared(), place, None) as other:
        await other.txn(put("a", b"1"))
        async with aclosing(other.watch("", 0)) as batches:
            assert await anext(batches) == StateBatch(0, ())
            await mover.begin(700)
            with pytest.raises((StateUnavailable, StateCompacted)):
                async for _ in batches:
                    pass
        assert await other.txn(put("b")) == TxnResult(True, 702)
        assert await other.get("a") is None
        assert [entry.revision for entry in (await other.range("", linearizable=True)).entries] == [702]
        for begin in (1, 700, 703):
            with pytest.raises(StateCompacted):
                await anext(other.watch("", begin))
        assert await heard(other, 701, 1) == [702]


@bounded
async def test_two_clusters_in_one_etcd_see_nothing_of_each_other() -> None:
    async with etcds.state(etcds.shared()) as one, etcds.state(etcds.shared()) as other:
        before = await one.check()
        await other.txn(put("a", b"theirs"))
        assert await one.get("a") is None
        assert (await one.txn(put("a", b"ours"))).ok
        async with aclosing(one.watch("", before)) as batches:
            async for batch in batches:
                if batch.events:
                    assert [event.entry.value for event in batch.events] == [b"ours"]
                    break


@bounded
async def test_a_base_that_is_no_number_is_told_of() -> None:
    place = secrets.token_hex(8)
    client = await EtcdClient.open(etcds.shared())
    request = client.pb.PutRequest(key=f"ollamamax/{place}~base".encode(), value=b"x")
    await client.call("KV", "Put", request, may_repeat=True)
    await client.close()
    async with etcds.state(etcds.shared(), place, None) as store:
        with pytest.raises(StateCorrupt, match="is no number"):
            await store.get("a")


# --- sizes ----------------------------------------------------------------------------------------------------


@bounded
async def test_a_large_state_is_read_in_pages_of_one_revision() -> None:
    async with etcds.state(etcds.shared()) as store:
        for first in range(0, 700, 100):
            await store.txn(StateTxn((), tuple(Put(f"k{n:04}", b"v" * 1_000) for n in range(first, first + 100))))
        whole = await store.range("k")
        assert [entry.key for entry in whole.entries] == [f"k{n:04}" for n in range(700)]
        assert whole.revision == 7


@bounded
async def test_the_largest_transaction_passes() -> None:
    async with etcds.state(etcds.shared()) as store:
        compares = tuple(Compare(f"{n:03}" + "k" * 500, 0) for n in range(128))
        assert (await store.txn(StateTxn(compares, tuple(Put(one.key, b"v" * 7_000) for one in compares)))).ok
        assert (await store.txn(StateTxn((), tuple(Put(f"{n}", b"") for n in range(256))))).ok


@bounded
async def test_an_etcd_with_its_own_limits_is_told_of_ours(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_text(f'#!/bin/sh\nexec {etcds.etcd_path()} "$@" --max-txn-ops=128\n')
    small.chmod(0o755)
    [spec] = etcds.specs(tmp_path, 1)
    async with etcds.running(spec, paths=[str(small)]), etcds.state(etcds.access(spec)) as store:
        with pytest.raises(StateError, match="start its members with --max-txn-ops 512"):
            await store.txn(StateTxn((), tuple(Put(f"{n}", b"") for n in range(200))))


@bounded
async def test_a_full_etcd_refuses_until_room_is_made(tmp_path: Path) -> None:
    [spec] = etcds.specs(tmp_path, 1)
    spec = replace(spec, quota_bytes=1 << 20)
    async with etcds.running(spec), etcds.state(etcds.access(spec)) as store:

        async def fill() -> None:
            while True:
                await store.txn(put("a", b"v" * 100_000))

        with pytest.raises(DiskFull, match="reached its quota"):
            await fill()
        assert (await store.get("a", linearizable=True)) is not None
        members = await Members.open(etcds.access(spec))
        [alarm] = await members.alarms()
        assert alarm.kind == "NOSPACE"
        before = await members.status()
        assert before.errors
        await members.compact(0)
        await members.compact(0)  # again: it was done
        await members.defragment()
        await members.disarm()
        after = await members.status()
        assert after.db_bytes < before.db_bytes
        assert (await members.alarms(), after.errors) == ((), ())
        await members.close()
        assert (await store.txn(put("a", b"new"))).ok


# --- who is not there -----------------------------------------------------------------------------------------


@bounded
async def test_nobody_there() -> None:
    port = free_port()
    store = await EtcdState.open(EtcdAccess(endpoints=(f"127.0.0.1:{port}",)), "c")
    for call in (store.get("a"), store.range(""), store.txn(put("a")), store.grant_lease(1_000), store.check()):
        with pytest.raises(StateElsewhere, match=rf"127\.0\.0\.1:{port}.*Connection refused.*majority"):
            await call
    with pytest.raises(StateUnavailable, match="Connection refused"):
        await anext(store.watch("", 0))
    await store.close()
    with pytest.raises(StateError, match="no endpoint"):
        await EtcdState.open(EtcdAccess(endpoints=()), "c")


@bounded
async def test_an_endpoint_that_is_gone_is_passed_over() -> None:
    port = free_port()
    live = etcds.shared()
    async with etcds.state(replace(live, endpoints=(f"127.0.0.1:{port}", *live.endpoints))) as store:
        assert (await store.txn(put("a"))).ok
        assert await heard(store, 0, 1) == [1]


@bounded
async def test_a_watch_ends_with_its_etcd_and_goes_on_where_it_was(tmp_path: Path) -> None:
    [spec] = etcds.specs(tmp_path, 1)
    async with etcds.running(spec) as [child], etcds.state(etcds.access(spec)) as store:
        lease_id = await store.grant_lease(60_000)
        await store.txn(put("a", b"1", lease_id))
        async with aclosing(store.watch("", 0)) as batches:
            async for batch in batches:
                if batch.revision == 1:
                    break
            os.kill(child.pid, signal.SIGKILL)
            with pytest.raises(StateUnavailable, match="can't be reached"):
                async for _ in batches:
                    pass
        await child.ready(etcds.LIMIT_MS)
        assert child.restarts == 1
        while not await reaches(store):
            await asyncio.sleep(0.05)
        await store.renew_lease(lease_id)  # it has outlived that
        assert await store.txn(put("a", b"2")) == TxnResult(True, 2)
        assert await heard(store, 1, 1) == [2]


async def reaches(store: EtcdState) -> bool:
    try:
        await store.check()
        await anext(store.watch("", 0))
    except StateUnavailable:
        return False
    return True


@bounded
async def test_one_that_stands_still_is_given_up_in_time(tmp_path: Path) -> None:
    [spec] = etcds.specs(tmp_path, 1)
    async with etcds.running(spec) as [child], etcds.state(etcds.access(spec)) as store:
        async with aclosing(store.watch("", 0)) as batches:
            await anext(batches)
            os.kill(child.pid, signal.SIGSTOP)
            try:
                with pytest.raises(StateUnavailable, match="did not answer in time"):
                    await store.txn(put("a"))
                with pytest.raises(StateUnavailable, match="nothing was heard"):
                    async for _ in batches:
                        pass
            finally:
                os.kill(child.pid, signal.SIGCONT)
        while not await reaches(store):
            await asyncio.sleep(0.05)


# --- strangers ------------------------------------------------------------------------------------------------


@bounded
async def test_only_who_shows_the_right_papers_gets_in(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("ours", "theirs")]
    for folder in folders:
        folder.mkdir()
    ours, theirs = Authority(folders[0]), Authority(folders[1])
    certificate, key = map(str, ours.issue("etcd.c1", "127.0.0.1"))
    foreign = dict(zip(("certificate", "key"), map(str, theirs.issue("etcd.c1", "127.0.0.1")), strict=True))
    [spec] = etcds.specs(tmp_path, 1)
    spec = replace(spec, ca=str(ours.path), certificate=certificate, key=key, peer_name="etcd.c1")
    good = etcds.access(spec)
    async with etcds.running(spec):
        async with etcds.state(good) as store:
            assert (await store.txn(put("a"))).ok
        async with etcds.state(replace(good, server_name="etcd.c1"), begin=None) as store:
            assert await store.check() > 0
        for access, reason in (
            (replace(good, ca=str(theirs.path)), "is not of the authority that was given"),
            (replace(good, server_name="elsewhere"), "is not of the authority that was given.*another host"),
            (replace(good, **foreign), "does not accept this node's certificate"),
            (replace(good, certificate="", key=""), "does not accept this node's certificate"),
            (replace(good, ca=str(tmp_path / "none")), "can't read .*none"),
        ):
            async with etcds.state(access, begin=None) as store:
                with pytest.raises(CertificateRefused, match=reason):
                    await store.check()
                with pytest.raises(StateElsewhere, match=reason):
                    await store.get("a")
        async with etcds.state(EtcdAccess(endpoints=good.endpoints), begin=None) as store:
            with pytest.raises(StateUnavailable, match="may want TLS"):
                await store.check()


@bounded
async def test_papers_that_were_replaced_are_read_anew(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("etcd.c1", "127.0.0.1")
    (tmp_path / "theirs").mkdir()
    other, other_key = Authority(tmp_path / "theirs").issue("etcd.c1", "127.0.0.1")
    [spec] = etcds.specs(tmp_path, 1)
    spec = replace(spec, ca=str(authority.path), certificate=str(certificate), key=str(key))
    own, own_key = tmp_path / "own.pem", tmp_path / "own.key"
    own.write_bytes(other.read_bytes())
    own_key.write_bytes(other_key.read_bytes())
    access = replace(etcds.access(spec), certificate=str(own), key=str(own_key))
    async with etcds.running(spec), etcds.state(access, begin=None) as store:
        with pytest.raises(CertificateRefused):
            await store.check()
        own.write_bytes(certificate.read_bytes())
        own_key.write_bytes(key.read_bytes())
        assert await store.check() > 0


# --- the rest -------------------------------------------------------------------------------------------------


@bounded
async def test_a_lease_that_never_was() -> None:
    async with etcds.state(etcds.shared()) as store:
        with pytest.raises(LeaseNotFound):
            await store.renew_lease(77)
        await store.revoke_lease(77)


@bounded
async def test_calls_that_wait_when_it_is_closed_are_told(tmp_path: Path) -> None:
    [spec] = etcds.specs(tmp_path, 1)
    async with etcds.running(spec) as [child]:
        store = await EtcdState.open(etcds.access(spec), "c")
        await store.check()
        os.kill(child.pid, signal.SIGSTOP)
        try:
            waiting = [asyncio.create_task(store.get("a", linearizable=True)) for _ in range(3)]
            await asyncio.sleep(0)
            await store.close()
            results = await asyncio.gather(*waiting, return_exceptions=True)
        finally:
            os.kill(child.pid, signal.SIGCONT)
        assert [type(one) for one in results] == [StateUnavailable] * 3


def test_who_is_no_host_imports_no_grpc() -> None:
    code = "import sys, ollamamax.adapters.state.etcd; sys.exit('grpc' in sys.modules or 'aetcd' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
