"""Who carries the mesh, and whom to connect to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.membership.backbone import (
    Backbone,
    BackboneConfig,
    Decision,
    first,
    mesh_address,
    mesh_addresses,
    targets,
)

CONFIG = BackboneConfig()
ALL = list("abcdef")
NODES = st.lists(st.sampled_from("abcdefghij"), unique=True)


def test_a_node_alone_carries_the_mesh() -> None:
    assert Backbone("a", CONFIG).step(["a"], (), 0.0) == Decision(True)
    assert Backbone("a", CONFIG).step([], (), 0.0) == Decision(True)


def test_the_first_three_that_are_not_gone_carry_it() -> None:
    roles = {node: Backbone(node, CONFIG).step(ALL, {"b"}, 0.0).is_router for node in ALL}
    assert [node for node, is_router in roles.items() if is_router] == ["a", "c", "d"]


def test_a_node_is_promoted_when_its_view_has_been_the_same_for_two_seconds() -> None:
    backbone = Backbone("d", CONFIG)
    assert backbone.step(ALL, (), 0.0) == Decision(False)
    assert backbone.step(ALL, {"a"}, 1_000.0) == Decision(False, 3_000.0)
    assert backbone.step(ALL, {"a"}, 2_999.0) == Decision(False, 3_000.0)
    assert backbone.step(ALL, (), 2_999.5) == Decision(False), "it is back"
    assert backbone.step(ALL, {"a"}, 4_000.0) == Decision(False, 6_000.0)
    assert backbone.step(ALL, {"a", "b"}, 6_000.0) == Decision(True)


def test_a_node_is_demoted_much_later() -> None:
    backbone = Backbone("d", CONFIG)
    assert backbone.step(ALL, {"a"}, 0.0) == Decision(True)
    assert backbone.step(ALL, (), 1_000.0) == Decision(True, 31_000.0)
    assert backbone.step(ALL, {"b"}, 30_000.0) == Decision(True)
    assert backbone.step(ALL, (), 40_000.0) == Decision(True, 70_000.0)
    assert backbone.step(ALL, (), 70_000.0) == Decision(False)


def test_targets_begin_with_those_that_say_they_are_routers() -> None:
    found = targets("f", ALL, {"a"}, {"e", "a"})
    assert set(found[:4]) == {"e", "b", "c", "d"}
    assert found[4:] == ["a"], "one that is gone comes back some time"
    assert targets("a", ["a"], (), ()) == []


def test_a_router_leaves_those_out_that_are_none() -> None:
    assert set(targets("a", ALL, (), "abc", is_router=True)) == {"b", "c"}
    assert set(targets("a", ALL, (), "abc")) == {"b", "c", "d", "e"}
    assert set(targets("a", ALL, {"b"}, "ac", is_router=True)) == {"c", "d", "b"}, "the gone one comes back"


def test_nodes_spread_over_the_routers() -> None:
    firsts = {targets(node, ["a", "b", "c", "x", "y", "z"], (), "abc")[0] for node in "xyz"}
    assert firsts == {"a", "b", "c"}


@given(NODES, st.sets(st.sampled_from("abcdefghij")), st.sets(st.sampled_from("abcdefghij")), st.sampled_from("ajz"))
def test_targets_are_members_never_this_node_and_few(
    ranking: list[str], gone: set[str], routers: set[str], me: str
) -> None:
    found = targets(me, ranking, gone, routers)
    assert set(found) <= set(ranking) - {me}
    assert len(found) == len(set(found)) <= 8
    assert set(ranking[:3]) - {me} <= set(found) or len(found) == 8
    assert set(first(ranking, gone, 3)) - {me} <= set(found)


@given(NODES, st.sets(st.sampled_from("abcdefghij")), st.floats(0, 1e6))
def test_all_nodes_with_one_view_agree(ranking: list[str], gone: set[str], now_ms: float) -> None:
    carriers = [node for node in ranking if Backbone(node, CONFIG).step(ranking, gone - {node}, now_ms).is_router]
    assert set(first(ranking, gone, 3)) <= set(carriers)


def test_the_mesh_is_on_the_next_port() -> None:
    assert mesh_address("10.0.0.1:11435") == "10.0.0.1:11436"
    assert mesh_address("[fe80::1]:1") == "[fe80::1]:2"
    assert mesh_address("node.example:0") == "node.example:1"


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "host:65535", "host:-1", "host:٣"])
def test_what_is_no_address_has_no_next_port(text: str) -> None:
    with pytest.raises(ValueError, match="no port"):
        mesh_address(text)


def test_only_a_nodes_first_addresses_are_tried() -> None:
    assert mesh_addresses(["a:1", "junk", "b:2", "c:3"]) == ["a:2", "b:3"]
