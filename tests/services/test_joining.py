"""Joining by token over real TLS: who gets in, who does not, and that secrets are told to members alone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from joining_world import Cluster, Meddler, assert_refused, changed, with_secret
from structlog.testing import capture_logs

from ollamamax.adapters.identity.node_identity import FileIdentityStore
from ollamamax.adapters.network.join_client import TlsJoinLink
from ollamamax.core.catalog.commands import RemoveNode
from ollamamax.core.catalog.join_token import parse
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.errors import (
    BadRequest,
    Busy,
    CertificateRefused,
    NodeConflict,
    PeerTimeout,
    PeerUnavailable,
    StateUnavailable,
    TokenRefused,
)
from ollamamax.services.joining import join
from ollamamax.testing.clock import SeededDice

SECRET = "00112233445566778899aabbccddeeff"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path) as it:
        yield it


# --- in ------------------------------------------------------------------------------------------------------------


async def test_a_node_joins(cluster: Cluster) -> None:
    newcomer = cluster.newcomer("box")
    identity = await newcomer.join(await cluster.founder.token())
    assert newcomer.store.load() == identity
    assert (identity.name, identity.cluster_id) == ("box", cluster.cluster_id)
    assert identity.holder_id == cluster.founder.identity.node_id
    await cluster.refreshed(cluster.founder)
    record = cluster.founder.replica.catalog.nodes[identity.node_id]
    assert record.addresses == (f"127.0.0.1:{newcomer.port}",)
    assert record.key_hash == newcomer.store.facts(identity.keys.certificate).key_hash
    assert (record.name, record.version, record.level, record.sequence) == ("box", "1.2.3", LEVEL, 2)
    state = newcomer.store.joined_state()
    assert state is not None
    assert f"nodes/{identity.node_id}" in [entry.key for entry in state.entries]
    assert [token.uses_left for token in cluster.founder.issuer.tokens()] == [0]


async def test_a_member_without_the_key_passes_it_on(cluster: Cluster) -> None:
    member = await cluster.member("member")
    newcomer = cluster.newcomer("box")
    identity = await newcomer.join(await member.token(only=member))
    assert identity.keys.ca == cluster.founder.identity.keys.ca
    await cluster.refreshed(member)
    assert [node.name for node in member.replica.catalog.nodes.values()] == ["founder", "member", "box"]


async def test_a_dead_address_and_a_foreign_one_are_passed_over(cluster: Cluster, tmp_path: Path) -> None:
    async with Cluster(tmp_path / "other", "dead00000000beef") as other:
        addresses = ("127.0.0.1:1", other.founder.address, cluster.founder.address)
        token = changed(await cluster.founder.token(), addresses=addresses)
        assert (await cluster.newcomer("box").join(token)).cluster_id == cluster.cluster_id


async def test_the_same_name_twice_gets_a_number(cluster: Cluster) -> None:
    token = await cluster.founder.token(uses=2)
    first = await cluster.newcomer("box", cluster.folder / "1").join(token)
    second = await cluster.newcomer("box", cluster.folder / "2").join(token)
    assert (first.name, second.name) == ("box", "box-2")


async def test_two_at_once_and_one_use_let_one_in(cluster: Cluster) -> None:
    token = await cluster.founder.token()
    newcomers = [cluster.newcomer(f"n{count}") for count in range(4)]
    results = await asyncio.gather(*(one.join(token) for one in newcomers), return_exceptions=True)
    assert [type(one) for one in results].count(TokenRefused) == 3
    await cluster.refreshed(cluster.founder)
    assert len(cluster.founder.replica.catalog.nodes) == 2
    assert sum(one.store.load() is not None for one in newcomers) == 1


async def test_a_lost_answer_is_asked_for_again(cluster: Cluster) -> None:
    losses = iter([PeerTimeout("lost")])

    def lose(data: bytes) -> bytes:
        for loss in losses:
            raise loss
        return data

    link = Meddler(on_join=lose)
    identity = await cluster.newcomer("box").join(await cluster.founder.token(), link)
    assert link.joins == 2
    await cluster.refreshed(cluster.founder)
    assert list(cluster.founder.replica.catalog.nodes)[1:] == [identity.node_id]


# --- again ---------------------------------------------------------------------------------------------------------


async def test_who_joins_again_stays_who_it_is(cluster: Cluster) -> None:
    newcomer = cluster.newcomer("box")
    first = await newcomer.join(await cluster.founder.token())
    newcomer.name = "another"
    second = await newcomer.join(await cluster.founder.token())
    assert (second.node_id, second.name) == (first.node_id, "box")
    assert second.keys.private_key == first.keys.private_key
    assert second.keys.certificate != first.keys.certificate
    await cluster.refreshed(cluster.founder)
    assert len(cluster.founder.replica.catalog.nodes) == 2


async def test_who_was_removed_comes_back_as_somebody_else(cluster: Cluster) -> None:
    newcomer = cluster.newcomer("box")
    first = await newcomer.join(await cluster.founder.token())
    await cluster.founder.control.run(RemoveNode(node_id=first.node_id, at_ns=cluster.clock.wall_ns()))
    second = await newcomer.join(await cluster.founder.token())
    assert second.node_id != first.node_id
    assert second.keys.private_key != first.keys.private_key
    assert newcomer.store.load() == second


async def test_another_cluster_is_left_whole(cluster: Cluster, tmp_path: Path) -> None:
    async with Cluster(tmp_path / "other", "dead00000000beef") as other:
        newcomer = cluster.newcomer("box")
        first = await newcomer.join(await other.founder.token())
        second = await newcomer.join(await cluster.founder.token())
        assert newcomer.store.load() == second
        assert second.node_id != first.node_id
        assert FileIdentityStore(tmp_path / "box" / "cluster.old-1").load() == first


# --- out -----------------------------------------------------------------------------------------------------------


async def test_an_expired_token(cluster: Cluster) -> None:
    token = await cluster.founder.token(ttl_ms=60_000)
    cluster.clock.advance(60_001)
    await assert_refused(cluster, token, TokenRefused, "expired")


async def test_a_revoked_token(cluster: Cluster) -> None:
    token = await cluster.founder.token()
    await cluster.founder.issuer.revoke_token(parse(token).token_id)
    await assert_refused(cluster, token, TokenRefused, "not known")


async def test_a_used_up_token(cluster: Cluster) -> None:
    token = await cluster.founder.token()
    await cluster.newcomer("first").join(token)
    with pytest.raises(TokenRefused, match="used up"):
        await cluster.newcomer("second").join(token)


async def test_a_forged_secret(cluster: Cluster) -> None:
    token = changed(await cluster.founder.token(), secret="f" * 32)
    await assert_refused(cluster, token, TokenRefused, "not known")


async def test_an_unknown_token(cluster: Cluster) -> None:
    token = changed(await cluster.founder.token(), token_id="f" * 16)
    await assert_refused(cluster, token, TokenRefused, "not known")


async def test_a_token_of_another_cluster(cluster: Cluster, tmp_path: Path) -> None:
    async with Cluster(tmp_path / "other", "dead00000000beef") as other:
        token = changed(await other.founder.token(), addresses=(cluster.founder.address,))
        await assert_refused(cluster, token, TokenRefused, r"belongs to cluster c0ffee00c0ffee00, .* dead00000000beef")


async def test_an_authority_that_the_token_does_not_name(cluster: Cluster) -> None:
    token = changed(await cluster.founder.token(), ca_hash="f" * 64)
    await assert_refused(cluster, token, CertificateRefused, "another authority .* nothing was told")


@pytest.mark.parametrize("text", ["", "omx1.", "hello", "omx2.AAAA", "omx1." + "A" * 100, "x" * 100_000])
async def test_what_is_no_token(cluster: Cluster, text: str) -> None:
    with pytest.raises(TokenRefused, match="token"):
        await cluster.newcomer("box").join(text)


async def test_nobody_there(cluster: Cluster) -> None:
    token = changed(await cluster.founder.token(), addresses=("127.0.0.1:1",))
    await assert_refused(cluster, token, PeerUnavailable, r"can't reach 127\.0\.0\.1:1: Connection refused")


async def test_the_holder_away(cluster: Cluster) -> None:
    member = await cluster.member("member")
    token = await member.token(only=member)
    await cluster.founder.server.close(0)
    with pytest.raises(StateUnavailable, match="node founder, which signs certificates, can't be reached"):
        await cluster.newcomer("box").join(token)


async def test_a_name_or_version_outside_the_grammar(cluster: Cluster) -> None:
    newcomer = cluster.newcomer("box")
    newcomer.name = "Not A Name!"
    with pytest.raises(BadRequest, match="no node name"):
        await newcomer.join(await cluster.founder.token())


async def test_the_id_of_somebody_else(cluster: Cluster) -> None:
    token = await cluster.founder.token()

    class Thief(SeededDice):
        def token_hex(self, count: int) -> str:
            return cluster.founder.identity.node_id

    newcomer = cluster.newcomer("thief")
    with pytest.raises(NodeConflict, match=r"the id of node .* is that of the member founder"):
        await join(
            token,
            TlsJoinLink(),
            newcomer.store,
            name="thief",
            addresses=("127.0.0.1:9",),
            version="1",
            clock=cluster.clock,
            dice=Thief(),
        )
    assert newcomer.store.load() is None


async def test_guessing_is_slowed_down(cluster: Cluster) -> None:
    good = await cluster.founder.token()
    for _ in range(10):
        with pytest.raises(TokenRefused):
            await cluster.newcomer("box").join(changed(good, secret="f" * 32))
    with pytest.raises(Busy, match=r"too many failed attempts .* from 127\.0\.0\.1"):
        await cluster.newcomer("box").join(good)
    cluster.clock.advance(6_001)
    assert (await cluster.newcomer("box").join(good)).name == "box"


async def test_guessing_through_another_member_is_slowed_down_too(cluster: Cluster) -> None:
    member = await cluster.member("member")
    bad = changed(await cluster.founder.token(), secret="f" * 32, addresses=(member.address,))
    for _ in range(10):
        with pytest.raises(TokenRefused):
            await cluster.newcomer("box").join(bad)
    direct = changed(bad, addresses=(cluster.founder.address,))
    for token in (bad, direct):
        with pytest.raises(Busy):
            await cluster.newcomer("box").join(token)


async def test_no_secret_in_a_log_line(cluster: Cluster) -> None:
    token = await with_secret(cluster, SECRET)
    with capture_logs() as logs:
        await cluster.newcomer("a").join(token)
        with pytest.raises(TokenRefused):
            await cluster.newcomer("b").join(token)
        with pytest.raises(TokenRefused):
            await cluster.newcomer("c").join(changed(token, secret=SECRET[::-1]))
    said = repr(logs)
    assert "a node joined" in said
    assert "a joining was refused" in said
    assert SECRET not in said
    assert SECRET[::-1] not in said
    assert "BEGIN" not in said
