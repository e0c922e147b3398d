"""Is there an order of operations, true to real time, in which one object alone would have answered the same?

The search of Wing and Gong (1993) with the memory of Lowe (2017): what was done, and the object's state then, is
looked at once. An operation whose outcome nobody knows may take effect at any time after its call, or never.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

NEVER = float("inf")
MAX_TRIED = 300_000


@dataclass(frozen=True)
class Op:
    """called, returned: places in one order of all events.  returned: NEVER if the outcome is unknown."""

    called: float
    returned: float
    name: str
    argument: Any = None
    result: Any = None


Step = Callable[[Any, Op], tuple[bool, Hashable]]
"""Of a state and an operation: whether the result may be so (an unknown one always may), and the state then."""


def register(state: Hashable, op: Op) -> tuple[bool, Hashable]:
    """read -> value · write(value) · cas((old, new)) -> whether it was old."""
    match op.name:
        case "read":
            return op.result == state, state
        case "write":
            return True, op.argument
        case "cas":
            old, new = op.argument
            is_done = state == old
            return op.returned == NEVER or op.result == is_done, new if is_done else state
    raise ValueError(op.name)


def grow_only_set(state: frozenset[Any], op: Op) -> tuple[bool, Hashable]:
    """read -> frozenset · add(element)."""
    match op.name:
        case "read":
            return op.result == state, state
        case "add":
            return True, state | {op.argument}
    raise ValueError(op.name)


def settled(history: Sequence[Op]) -> list[Op]:
    """The same history, easier to search: what somebody saw was done by then, what a set lacked was added later.

    For histories in which no two operations write or add the same value.
    """
    known = [op for op in history if op.returned != NEVER]
    seen: dict[object, float] = {}
    for op in known:
        for value in _seen_by(op):
            seen[value] = min(seen.get(value, NEVER), op.returned)
    settled_ones = []
    for op in history:
        if op.returned == NEVER:
            if op.name == "add" and op.argument not in seen:
                continue  # what never showed was never added
            op = replace(op, returned=seen.get(_written_by(op), NEVER), result=True)
        if op.name == "add":
            lacking = (one.called for one in known if one.name == "read" and op.argument not in one.result)
            op = replace(op, called=max([op.called, *lacking]))
        settled_ones.append(op)
    return settled_ones


def _seen_by(op: Op) -> Iterable[object]:
    match op.name:
        case "read":
            return op.result if isinstance(op.result, frozenset) else (op.result,)
        case "cas":
            return (op.argument[0],) if op.result else ()
    return ()


def _written_by(op: Op) -> object:
    return op.argument[1] if op.name == "cas" else op.argument


def is_linearizable(history: Sequence[Op], initial: Hashable, step: Step) -> bool:
    """Whether such an order exists."""
    ops = sorted(history, key=lambda op: (op.returned, op.called))  # unknown ones last: they are tried last
    must = sum(1 << place for place, op in enumerate(ops) if op.returned != NEVER)
    seen: set[tuple[int, Hashable]] = set()
    stack: list[tuple[int, Hashable]] = [(0, initial)]
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        assert len(seen) <= MAX_TRIED, "too many orders to try them all"
        left = [place for place in range(len(ops)) if not done >> place & 1]
        first_return = ops[left[0]].returned
        for place in reversed(left):
            if ops[place].called < first_return:
                may_be, after = step(state, ops[place])
                if may_be:
                    stack.append((done | 1 << place, after))
    return False
