"""The checker itself: histories that are known to be fine, and known not to be."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linearizability import NEVER, Op, grow_only_set, is_linearizable, register, settled


def read(called: float, returned: float, result: object) -> Op:
    return Op(called, returned, "read", result=result)


def write(called: float, returned: float, value: object) -> Op:
    return Op(called, returned, "write", value)


def cas(called: float, returned: float, old: object, new: object, result: bool | None = None) -> Op:
    return Op(called, returned, "cas", (old, new), result)


GOOD_REGISTERS = {
    "nothing": [],
    "one after the other": [write(0, 1, 1), read(2, 3, 1), write(4, 5, 2), read(6, 7, 2)],
    "a read during a write sees the old": [write(0, 9, 1), read(1, 2, None), read(3, 4, 1)],
    "two writes at once, in either order": [write(0, 9, 1), write(1, 8, 2), read(10, 11, 1)],
    "an unknown write was never made": [write(0, NEVER, 1), read(1, 2, None), read(3, 4, None)],
    "an unknown write is made late": [write(0, NEVER, 1), read(1, 2, None), read(3, 4, 1)],
    "a swap that lost": [write(0, 1, 1), cas(2, 9, 1, 2, True), cas(3, 8, 1, 3, False), read(10, 11, 2)],
    "an unknown swap made way": [write(0, 1, 1), cas(2, NEVER, 1, 2), cas(3, 4, 2, 3, True), read(5, 6, 3)],
}
BAD_REGISTERS = {
    "a value from nowhere": [write(0, 1, 1), read(2, 3, 2)],
    "a stale read": [write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)],
    "a lost write": [write(0, 1, 1), read(2, 3, None)],
    "a read from the future": [read(0, 1, 1), write(2, 3, 1)],
    "back again": [write(0, 9, 1), read(1, 2, 1), read(3, 4, None)],
    "two readers disagree": [write(0, 9, 1), write(0.5, 9, 2), read(10, 11, 1), read(12, 13, 2)],
    "both swaps won": [write(0, 1, 1), cas(2, 9, 1, 2, True), cas(3, 8, 1, 3, True)],
    "a swap that lost to nobody": [write(0, 1, 1), cas(2, 3, 1, 2, False)],
    "an unknown write, seen and gone": [write(0, NEVER, 1), read(1, 2, 1), read(3, 4, None)],
    "an unknown write before its call": [read(0, 1, 1), write(2, NEVER, 1)],
}


@pytest.mark.parametrize("name", GOOD_REGISTERS)
def test_good_registers(name: str) -> None:
    assert is_linearizable(GOOD_REGISTERS[name], None, register)


@pytest.mark.parametrize("name", BAD_REGISTERS)
def test_bad_registers(name: str) -> None:
    assert not is_linearizable(BAD_REGISTERS[name], None, register)


def test_sets() -> None:
    adds = [Op(0, 5, "add", 1), Op(1, 4, "add", 2), Op(2, NEVER, "add", 3)]
    empty: frozenset[int] = frozenset()

    def holds(*reads: Op) -> bool:
        return is_linearizable([*adds, *reads], empty, grow_only_set)

    assert holds(read(3, 6, frozenset({2})), read(7, 8, frozenset({1, 2})), read(9, 10, frozenset({1, 2, 3})))
    assert not holds(read(7, 8, frozenset({1})))  # an acknowledged element is lost
    assert not holds(read(7, 8, frozenset({1, 2, 3})), read(9, 10, frozenset({1, 2})))  # one vanishes
    assert not holds(read(3, 6, frozenset({1})), read(3, 6, frozenset({2})))  # two orders at once


OPS = st.builds(
    lambda called, lasts, name, values, result, is_known: Op(
        called,
        called + lasts if is_known else NEVER,
        name,
        values[0] if name == "write" else values,
        result % 2 == 0 if name == "cas" else result,
    ),
    st.integers(0, 12).map(lambda place: place * 1.0),
    st.integers(1, 6).map(lambda lasts: lasts + 0.5),
    st.sampled_from(["read", "write", "cas"]),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.integers(0, 2),
    st.booleans(),
)


def dumb(history: list[Op]) -> bool:
    """All orders of all choices of those operations that took effect."""
    known = [op for op in history if op.returned != NEVER]
    unknown = [op for op in history if op.returned == NEVER]
    for chosen in range(1 << len(unknown)):
        ops = known + [op for place, op in enumerate(unknown) if chosen >> place & 1]
        for order in permutations(ops):
            state: object = 0
            for place, op in enumerate(order):
                if any(later.returned < op.called for later in order[place + 1 :]):
                    break
                may_be, state = register(state, op)
                if not may_be:
                    break
            else:
                return True
    return False


@given(st.lists(OPS, max_size=5))
def test_it_finds_what_all_orders_would_find(history: list[Op]) -> None:
    assert is_linearizable(history, 0, register) == dumb(history)


def unique(history: list[Op]) -> list[Op]:
    """The same, but nobody writes what another one writes, or what is there at first."""

    def own(place: int, op: Op) -> Op:
        match op.name:
            case "write":
                return replace(op, argument=place + 1)
            case "cas":
                return replace(op, argument=(op.argument[0], place + 1))
        return op

    return [own(place, op) for place, op in enumerate(history)]


@given(st.lists(OPS, max_size=5).map(unique))
def test_settling_changes_no_verdict(history: list[Op]) -> None:
    assert is_linearizable(settled(history), 0, register) == dumb(history)


def test_settled_sets() -> None:
    adds = [Op(0, NEVER, "add", number) for number in range(30)]
    reads = [read(10 * number, 10 * number + 1, frozenset(range(number))) for number in range(1, 20)]
    assert is_linearizable(settled([*adds, *reads]), frozenset(), grow_only_set)
    assert not is_linearizable(settled([*adds, *reads, read(900, 901, frozenset())]), frozenset(), grow_only_set)
    late = Op(905, NEVER, "add", 99)
    assert not is_linearizable(
        settled([*adds, *reads, read(903, 904, frozenset({99})), late]), frozenset(), grow_only_set
    )


SET_OPS = st.builds(
    lambda called, lasts, is_read, elements, is_known: Op(
        called,
        called + lasts if is_known or is_read else NEVER,
        "read" if is_read else "add",
        result=elements if is_read else None,
    ),
    st.integers(0, 12).map(lambda place: place * 1.0),
    st.integers(1, 6).map(lambda lasts: lasts + 0.5),
    st.booleans(),
    st.frozensets(st.integers(0, 5), max_size=4),
    st.booleans(),
)


@given(st.lists(SET_OPS, max_size=6))
def test_settling_sets_changes_no_verdict(history: list[Op]) -> None:
    named = [replace(op, argument=place) if op.name == "add" else op for place, op in enumerate(history)]
    empty: frozenset[int] = frozenset()
    assert is_linearizable(settled(named), empty, grow_only_set) == is_linearizable(named, empty, grow_only_set)
