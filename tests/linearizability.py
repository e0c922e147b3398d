"""Is there an order of operations, true to real time, in which one object alone would have answered the same?

The search of Wing and Gong (1993) with the memory of Lowe (2017): what was done, and the object's state then, is
looked at once. An operation whose outcome nobody knows may take effect at any time after its call, or never.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

NEVER = float("inf")


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
        left = [place for place in range(len(ops)) if not done >> place & 1]
        first_return = ops[left[0]].returned
        for place in reversed(left):
            if ops[place].called < first_return or place == left[0]:
                may_be, after = step(state, ops[place])
                if may_be:
                    stack.append((done | 1 << place, after))
    return False
