"""Which members' programs are too old for what, in words. Levels: records.LEVEL and NodeRecord.level."""

from collections.abc import Iterable
from typing import Final

from ollamamax.core.types import NodeRecord

NEW_AT: Final = {
    2: "placements, drains, shared settings and a state on several nodes",
}
"""What programs of a level know that older ones do not, as a plural. Commands that need a level: apply.LEVELS."""
_NAMED: Final = 5


def older(nodes: Iterable[NodeRecord], level: int) -> str:
    """Those whose program is below that level, with its version; "" = none."""
    old = [node for node in nodes if node.level < level]
    named = ", ".join(f"{node.name} ({node.version})" for node in old[:_NAMED])
    return f"{named} and {len(old) - _NAMED} more" if len(old) > _NAMED else named


def waiting(nodes: Iterable[NodeRecord]) -> tuple[str, ...]:
    """A sentence for each level that is not everybody's yet: what waits, and for whom."""
    members = tuple(nodes)
    found = ((what, older(members, level)) for level, what in NEW_AT.items())
    return tuple(f"{what} wait for {old}" for what, old in found if old)
