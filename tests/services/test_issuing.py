"""What a member answers: tokens, renewed certificates, where a joining node is found, how often one may fail."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from joining_world import HOUR_MS, Cluster, Member

from ollamamax.adapters.identity.authority import FileAuthority
from ollamamax.core.catalog import records
from ollamamax.core.catalog.commands import RemoveNode, SetAddresses
from ollamamax.core.catalog.join_token import parse, secret_hash
from ollamamax.core.errors import (
    BadRequest,
    Busy,
    CertificateRefused,
    Conflict,
    NotFound,
    PeerProtocol,
    PeerUnavailable,
    StateUnavailable,
)
from ollamamax.core.types import Put, StateHome, StateTxn
from ollamamax.ports import Caller
from ollamamax.services import join_wire
from ollamamax.services.failure_limit import FailureLimit
from ollamamax.services.issuing import Issuer, _merged
from ollamamax.services.join_wire import ForwardedJoin, Hello, JoinAnswer, JoinRequest, RenewAnswer, RenewRequest
from ollamamax.testing.clock import FakeClock

DAY_MS = 24 * HOUR_MS


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path) as it:
        yield it


def _fresh_request(member: Member) -> bytes:
    return member.store.request(member.identity.keys.private_key)


# --- tokens --------------------------------------------------------------------------------------------------------


async def test_a_token_says_all_that_a_newcomer_needs(cluster: Cluster) -> None:
    made = await cluster.founder.issuer.create_token(HOUR_MS, 3)
    token = parse(made.token)
    assert token.cluster_id == cluster.cluster_id
    assert token.addresses == (cluster.founder.address,)
    assert cluster.founder.authority is not None
    assert token.ca_hash == cluster.founder.authority.key_hash
    assert (made.token_id, made.uses) == (token.token_id, 3)
    assert made.expires_ns == cluster.clock.wall_ns() + HOUR_MS * 10**6
    entry = await cluster.state.get(f"tokens/{token.token_id}")
    assert entry is not None
    assert token.secret.encode() not in entry.value, "the cluster keeps no secret"
    assert secret_hash(token.secret).encode() in entry.value


async def test_no_two_tokens_are_alike(cluster: Cluster) -> None:
    made = [parse((await cluster.founder.issuer.create_token(HOUR_MS, 1)).token) for _ in range(5)]
    assert len({token.secret for token in made}) == len({token.token_id for token in made}) == 5


async def test_a_member_names_itself_first_and_the_holder_too(cluster: Cluster) -> None:
    member = await cluster.member("member")
    token = parse((await member.issuer.create_token(HOUR_MS, 1)).token)
    assert token.addresses == (member.address, cluster.founder.address)


async def test_tokens_are_listed_oldest_first_and_revoked(cluster: Cluster) -> None:
    issuer = cluster.founder.issuer
    ids = []
    for uses in (1, 2, 3):
        ids.append((await issuer.create_token(HOUR_MS, uses)).token_id)
        cluster.clock.advance(1)
    assert [(token.token_id, token.uses_left) for token in issuer.tokens()] == list(zip(ids, (1, 2, 3), strict=True))
    await issuer.revoke_token(ids[1])
    assert [token.token_id for token in issuer.tokens()] == [ids[0], ids[2]]
    with pytest.raises(NotFound):
        await issuer.revoke_token(ids[1])


async def test_old_tokens_are_forgotten_a_day_after_their_end(cluster: Cluster) -> None:
    issuer = cluster.founder.issuer
    first = (await issuer.create_token(HOUR_MS, 1)).token_id
    cluster.clock.advance(HOUR_MS + DAY_MS - 1)
    second = (await issuer.create_token(HOUR_MS, 1)).token_id
    assert [token.token_id for token in issuer.tokens()] == [first, second]
    cluster.clock.advance(1)
    third = (await issuer.create_token(HOUR_MS, 1)).token_id
    assert [token.token_id for token in issuer.tokens()] == [second, third]


@pytest.mark.parametrize(("ttl_ms", "uses"), [(999, 1), (31 * DAY_MS, 1), (HOUR_MS, 0), (HOUR_MS, -1), (HOUR_MS, 1001)])
async def test_tokens_without_reason_are_refused(cluster: Cluster, ttl_ms: int, uses: int) -> None:
    with pytest.raises(BadRequest, match="join token"):
        await cluster.founder.issuer.create_token(ttl_ms, uses)
    assert cluster.founder.issuer.tokens() == ()


async def test_without_the_state_no_token_is_made(cluster: Cluster) -> None:
    cluster.state.cut()
    with pytest.raises(StateUnavailable):
        await cluster.founder.issuer.create_token(HOUR_MS, 1)
    cluster.state.cut(False)


# --- hello ---------------------------------------------------------------------------------------------------------


async def test_hello_tells_who_this_is(cluster: Cluster) -> None:
    answer = await cluster.founder.issuer.methods().open[join_wire.HELLO](Caller(""), b"whatever")
    hello = join_wire.answered(answer, Hello)
    identity = cluster.founder.identity
    assert (hello.cluster_id, hello.cluster_name) == (cluster.cluster_id, "home")
    assert (hello.node_id, hello.node_name, hello.ca) == (identity.node_id, "founder", identity.keys.ca)
    assert (hello.protocol_min, hello.protocol_max, hello.version) == (1, 1, "1.2.3")


async def test_a_stranger_may_ask_for_nothing_else(cluster: Cluster) -> None:
    assert set(cluster.founder.issuer.methods().open) == {"cluster.hello", "cluster.join"}
    assert set(cluster.founder.issuer.methods().unary) == {"cluster.join.forward", "cluster.renew"}


# --- renewing ------------------------------------------------------------------------------------------------------


async def test_a_member_gets_a_new_certificate(cluster: Cluster) -> None:
    member = await cluster.member("member")
    cluster.clock.advance(3 * DAY_MS)
    certificate = await member.issuer.own_certificate(_fresh_request(member))
    identity = member.store.replace_certificate(certificate)
    assert identity.keys.expires_ns - member.identity.keys.expires_ns == 3 * DAY_MS * 10**6
    assert not member.issuer.signs_here


async def test_who_has_the_key_signs_itself(cluster: Cluster) -> None:
    founder = cluster.founder
    cluster.state.cut()
    founder.store.replace_certificate(await founder.issuer.own_certificate(_fresh_request(founder)))
    assert founder.issuer.signs_here
    cluster.state.cut(False)


async def test_another_key_is_not_certified(cluster: Cluster) -> None:
    member = await cluster.member("member")
    await cluster.refreshed(cluster.founder)
    with pytest.raises(CertificateRefused, match=r"another key .*ollamamax join TOKEN"):
        await member.issuer.own_certificate(member.store.new_key()[1])


async def test_a_removed_member_gets_nothing(cluster: Cluster) -> None:
    member = await cluster.member("member")
    await cluster.founder.control.run(RemoveNode(node_id=member.identity.node_id, at_ns=1))
    renew = cluster.founder.issuer.methods().unary[join_wire.RENEW]
    body = join_wire.encode(RenewRequest(request=_fresh_request(member)))
    with pytest.raises(CertificateRefused, match="no member of the cluster"):
        await renew(Caller(member.identity.node_id), body)


async def test_nobody_gets_the_certificate_of_another_one(cluster: Cluster) -> None:
    one, two = await cluster.member("one"), await cluster.member("two")
    await cluster.refreshed(cluster.founder)
    renew = cluster.founder.issuer.methods().unary[join_wire.RENEW]
    body = join_wire.encode(RenewRequest(request=_fresh_request(one)))
    with pytest.raises(CertificateRefused, match="another key"):
        await renew(Caller(two.identity.node_id), body)
    given_out = join_wire.answered(await renew(Caller(one.identity.node_id), body), RenewAnswer)
    assert one.store.facts(given_out.certificate).node_id == one.identity.node_id


async def test_the_holder_away(cluster: Cluster) -> None:
    member = await cluster.member("member")
    await cluster.founder.server.close(0)
    with pytest.raises(StateUnavailable, match="node founder, which signs certificates, can't be reached now"):
        await member.issuer.own_certificate(_fresh_request(member))


async def test_whoever_of_those_that_hold_the_state_has_the_key_signs(cluster: Cluster) -> None:
    member, second, third = [await cluster.member(name) for name in ("member", "second", "third")]
    ids = [cluster.founder.identity.node_id, third.identity.node_id, second.identity.node_id]
    home = StateHome(kind="etcd", hosts=tuple(sorted(ids)), generation=1)
    await cluster.state.txn(StateTxn((), (Put(records.HOME_KEY, records.encode(home)),)))
    second.authority = FileAuthority.load(cluster.folder / "founder" / "cluster", None)
    await cluster.refreshed(member, second, third)
    await cluster.founder.server.close(0)
    assert second.issuer.signs_here
    certificate = await member.issuer.own_certificate(_fresh_request(member))
    assert member.store.facts(certificate).node_id == member.identity.node_id
    token = parse((await member.issuer.create_token(HOUR_MS, 1)).token)
    assert {*token.addresses} == {one.address for one in (member, second, third, cluster.founder)}
    joined = await cluster.newcomer("box").join(await member.token(only=third))
    assert joined.name == "box"


async def test_who_lacks_the_key_says_so(cluster: Cluster) -> None:
    member = await cluster.member("member")
    unary = member.issuer.methods().unary
    join = JoinRequest(token_id="", secret="", request=b"", node_id="", name="", addresses=(), version="")
    for method, body in (
        (join_wire.RENEW, join_wire.encode(RenewRequest(request=b""))),
        (join_wire.FORWARD, join_wire.encode(ForwardedJoin(join=join, source="10.0.0.1"))),
    ):
        with pytest.raises(StateUnavailable, match=r"ca\.key"):
            await unary[method](Caller(cluster.founder.identity.node_id), body)


async def test_a_holder_whose_key_is_gone_asks_nobody(cluster: Cluster) -> None:
    founder = cluster.founder
    keyless = Issuer(
        authority=lambda: None,
        store=founder.store,
        identity=founder.identity,
        control=founder.control,
        replica=founder.replica,
        link=founder.link,
        clock=cluster.clock,
        dice=cluster.dice,
        version="1",
    )
    with pytest.raises(StateUnavailable, match=r"ca\.key"):
        await keyless.own_certificate(_fresh_request(founder))


# --- garbage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [join_wire.JOIN, join_wire.FORWARD, join_wire.RENEW])
async def test_garbage_is_refused(cluster: Cluster, method: str) -> None:
    methods = cluster.founder.issuer.methods()
    handler = {**methods.unary, **methods.open}[method]
    caller = Caller(cluster.founder.identity.node_id, "10.0.0.1")
    for body in (b"", b"\xc1", b"\x80", b"\x90" * 100, b"\x91" * 5_000):
        with pytest.raises(BadRequest):
            await handler(caller, body)


async def test_garbage_counts_as_a_failure(cluster: Cluster) -> None:
    handler = cluster.founder.issuer.methods().open[join_wire.JOIN]
    for _ in range(10):
        with pytest.raises(BadRequest):
            await handler(Caller("", "10.0.0.1"), b"")
    with pytest.raises(Busy):
        await handler(Caller("", "10.0.0.1"), b"")
    with pytest.raises(BadRequest):
        await handler(Caller("", "10.0.0.2"), b"")


@given(st.binary(max_size=300), st.sampled_from([JoinRequest, ForwardedJoin, RenewRequest, Hello, JoinAnswer]))
@example_settings(max_examples=200, deadline=None)
def test_readers_raise_our_errors_alone(data: bytes, kind: type[object]) -> None:
    for read, error in ((join_wire.asked, BadRequest), (join_wire.answered, PeerProtocol)):
        with suppress(error):
            assert isinstance(read(data, kind), kind)


def test_what_shows_a_request_shows_no_secret() -> None:
    request = JoinRequest(token_id="t", secret="hush", request=b"", node_id="n", name="", addresses=(), version="")
    assert "hush" not in repr(ForwardedJoin(join=request, source="x"))


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "source", "merged"),
    [
        (("10.0.0.5:11435",), "10.0.0.5", ("10.0.0.5:11435",)),
        (("172.17.0.1:11435", "10.0.0.5:11435"), "10.0.0.5", ("10.0.0.5:11435", "172.17.0.1:11435")),
        (("box.lan:7000",), "192.0.2.9", ("box.lan:7000", "192.0.2.9:7000")),
        (("10.0.0.5:11435",), "2001:db8::1", ("10.0.0.5:11435", "[2001:db8::1]:11435")),
        (("10.0.0.5:11435",), "127.0.0.1", ("10.0.0.5:11435",)),
        (("10.0.0.5:11435",), "::1", ("10.0.0.5:11435",)),
        (("127.0.0.1:11435",), "127.0.0.1", ("127.0.0.1:11435",)),
        (("10.0.0.5:11435",), "fe80::1%eth0", ("10.0.0.5:11435",)),
        (("10.0.0.5:11435",), "", ("10.0.0.5:11435",)),
        (("10.0.0.5:11435",), "0.0.0.0", ("10.0.0.5:11435",)),
        (("10.0.0.5:11435", "10.0.0.5:11435"), "10.0.0.5", ("10.0.0.5:11435",)),
        (tuple(f"10.0.0.{n}:1" for n in range(8)), "10.0.1.1", tuple(f"10.0.0.{n}:1" for n in range(8))),
    ],
)
def test_where_a_joining_node_is_found(own: tuple[str, ...], source: str, merged: tuple[str, ...]) -> None:
    assert _merged(own, source) == merged


@pytest.mark.parametrize("own", [(), ("",), ("0.0.0.0:11435",), ("box:0",), ("no port",)])
def test_addresses_of_no_use_are_refused(own: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest, match=r"address|can't be called"):
        _merged(own, "10.0.0.5")


async def test_without_an_address_no_token_is_made(cluster: Cluster) -> None:
    await cluster.founder.control.run(SetAddresses(node_id=cluster.founder.identity.node_id, addresses=(), version="1"))
    with pytest.raises(Conflict, match=r"peer\.advertise"):
        await cluster.founder.issuer.create_token(HOUR_MS, 1)


# --- failures ------------------------------------------------------------------------------------------------------


def test_failures_are_forgotten_one_by_one() -> None:
    clock = FakeClock()
    limit = FailureLimit(clock, burst=3, forget_ms=1_000.0)
    for _ in range(3):
        limit.check("a")
        limit.failed("a")
    with pytest.raises(Busy):
        limit.check("a")
    limit.check("b")
    clock.advance(999)
    with pytest.raises(Busy):
        limit.check("a")
    clock.advance(1)
    limit.check("a")
    limit.failed("a")
    with pytest.raises(Busy):
        limit.check("a")
    clock.advance(100_000)
    for _ in range(3):
        limit.check("a")
        limit.failed("a")
    with pytest.raises(Busy):
        limit.check("a")


def test_an_ipv6_network_is_one_source() -> None:
    limit = FailureLimit(FakeClock(), burst=1)
    limit.failed("2001:db8::1")
    with pytest.raises(Busy):
        limit.check("2001:db8::ffff:2%eth0")
    limit.check("2001:db8:0:1::1")
    limit.check("2001:db8")


def test_sources_are_bounded() -> None:
    limit = FailureLimit(FakeClock(), burst=1, sources=100)
    for count in range(1_000):
        limit.failed(f"host-{count}")
    assert len(limit._failures) == 100
    limit.check("host-0")
    with pytest.raises(Busy):
        limit.check("host-999")


async def test_the_link_is_not_used_without_need(cluster: Cluster) -> None:
    """The founder never calls itself."""
    await cluster.founder.link.close()
    await cluster.newcomer("box").join(await cluster.founder.token())
    with pytest.raises(PeerUnavailable):
        await cluster.founder.link.call(cluster.founder.record, "cluster.hello", b"", timeout_ms=1_000)
