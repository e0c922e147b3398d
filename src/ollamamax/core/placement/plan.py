"""Where models ought to run: from what people asked for, what the nodes are and what is assigned now.

Who gets what:

- A node's memory is never exceeded by what is planned there; only members with all labels that are asked for count.
- First pins, then what else is wanted, each in the order in which placements were last changed, then by key; extra
  replicas (queues are long) take what is left. Whoever is served later goes where there is no room for all.
- A pin is held on its node or not at all. Only where more replicas than pins are wanted, one lies elsewhere instead.
- Replicas lie on different nodes. Only where fewer nodes could take one than replicas are wanted (other models aside;
  a cordoned node keeps what it has and takes nothing), several share a node.

Where it goes: a replica stays where it is assigned while it may; save that one that is not ready yields to one that is
ready elsewhere. A new one goes where the model runs, else to the lowest *pressure*: the mean of the share of memory
taken, this replica included, and of the load; less BLOBS_PULL where the files are. Ties by node id. If no node has the
room, others move (repair.py), and then those that are served later go.

Nothing is broken before it is made: a replica that is ready and has to leave a node that still answers stays, memory
permitting, until as many are ready as are wanted.

Bounds:

- Replicas placed: exactly those that an exhaustive search would place that takes replicas in the order above, each if
  all before it and this one can be held at once. So if all can be held, all are; and where all models are of one size
  and none is pinned, no arrangement holds more. This is for up to WINDOW nodes, while a search takes no more than
  SEARCH_STEPS and all together PLAN_STEPS; beyond, a replica may be missing for want of searching, never anything else.
- Balance: when a replica is placed anew and nobody moves for it, its node's pressure is at most BLOBS_PULL above that
  of any node that has no replica of the model and could have taken it. So of models with one replica each, placed on
  nodes with room for all, no node's pressure is more than BLOBS_PULL + half the share of one replica above another's.
- Rest: planning again with the result changes nothing, within the same limits; beyond them, each plan that differs
  serves those better who are served first, so that it comes to rest, too.

Deliberate limits: nothing moves for the sake of balance alone, so a new node stays empty until something is placed;
memory is one pool per node; a model needs the same on all nodes.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from ollamamax.core.placement.board import Board, Claim, claims_on
from ollamamax.core.placement.explain import Decision, decision, notes, reasons
from ollamamax.core.placement.facts import ModelNeed, NodeCapacity
from ollamamax.core.placement.seating import seat_all
from ollamamax.core.types import Assignment, Placement

PLAN_STEPS: Final = 40_000
"""Arrangements that are looked at in one plan to make room."""


class Plan:
    """What was decided. To be read only.

    assignments: model key -> its assignment, for each placement; the very object of before where nothing changed.
    changed: keys whose assignment is to be written.  removed: keys whose assignment is to be deleted.
    """

    def __init__(self, board: Board, claims: list[Claim], current: Mapping[str, Assignment], now_ns: int) -> None:
        self._board, self._now_ns = board, now_ns
        self._claims = {claim.key: claim for claim in claims}
        self.assignments = {claim.key: _assignment(board, claim, current.get(claim.key), now_ns) for claim in claims}
        self.changed = tuple(sorted(k for k, made in self.assignments.items() if made is not current.get(k)))
        self.removed = tuple(sorted(current.keys() - self.assignments.keys()))

    def decision(self, key: str) -> Decision:
        """All nodes and why, for the model of a placement."""
        return decision(self._board, self._claims[key], self._now_ns)


def plan(
    placements: Mapping[str, Placement],
    nodes: Iterable[NodeCapacity],
    models: Iterable[ModelNeed],
    current: Mapping[str, Assignment],
    now_ns: int,
    extra: Mapping[str, int] | None = None,
) -> Plan:
    """Decide. Pure; see the module.

    placements, current: by model key.  nodes: all members.  models: all that the cluster has; a placement of another
    one is all missing.  extra: model key -> replicas on top while requests wait; at most what the placement allows.
    """
    board = Board(nodes, PLAN_STEPS)
    needs = {model.key: model for model in models}
    before = {key: assignment.nodes for key, assignment in current.items()}
    claims = claims_on(board, placements, needs, before, extra or {})
    seat_all(board, claims)
    return Plan(board, claims, current, now_ns)


def _assignment(board: Board, claim: Claim, before: Assignment | None, now_ns: int) -> Assignment:
    """The former one, where it says the same, also of replicas that are missing and of pins that are not held."""
    nodes = {board.nodes[n].node_id: claim.at.get(n, 0) + claim.stays.get(n, 0) for n in {*claim.at, *claim.stays}}
    nodes = dict(sorted(nodes.items()))
    name, trouble = claim.placement.name, notes(board, claim)
    if (
        before is not None
        and (before.name, before.nodes, before.missing) == (name, nodes, claim.missing)
        and before.why[: len(trouble)] == trouble
        and before.decided_ns >= claim.placement.changed_ns
    ):
        return before
    # Clocks differ: what was decided on a wish is never older than it, else it would be decided again each time.
    decided_ns = max(now_ns, claim.placement.changed_ns)
    return Assignment(name=name, nodes=nodes, decided_ns=decided_ns, missing=claim.missing, why=reasons(board, claim))
