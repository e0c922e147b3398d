"""A node's part in running models where they ought to run: planning, keeping, and emptying nodes."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from msgspec import Struct

from ollamamax.core.types import ClusterEvent, ModelEntry, NodeFacts, NodeRecord
from ollamamax.main.loops import Loops
from ollamamax.main.roots import Roots
from ollamamax.ports import Clock
from ollamamax.services.agent import LocalAgent
from ollamamax.services.capacity import Capacities
from ollamamax.services.draining import DrainEnd, Drains
from ollamamax.services.keeping import NodeKeeper
from ollamamax.services.membership import Membership
from ollamamax.services.placing import Placements
from ollamamax.services.planning import Planner
from ollamamax.services.spreading import Spread, SpreadHost
from ollamamax.services.transfer import Transfer


class PlacementPart(Struct, frozen=True, kw_only=True):
    """placements, drains: what operators ask for.  spread_host: what other nodes ask for."""

    placements: Placements
    drains: Drains
    spread_host: SpreadHost
    planner: Planner
    keeper: NodeKeeper
    end: DrainEnd

    def start(self, loops: Loops, stack: AsyncExitStack) -> None:
        """Do this node's part until the loops end; the stack lets another node plan at once."""
        stack.push_async_callback(self.planner.close)
        loops.start(self.planner.run(), "planner")
        loops.start(self.keeper.run(), "keeper")
        loops.start(self.end.run(), "drain")


def build_placement(
    roots: Roots,
    membership: Membership,
    agent: LocalAgent,
    transfer: Transfer,
    holders: Callable[[ModelEntry], Sequence[NodeRecord]],
    reachable: Callable[[], Sequence[NodeRecord]],
    facts: Callable[[], NodeFacts],
    on_event: Callable[[ClusterEvent], None],
    clock: Clock,
) -> PlacementPart:
    """holders: other nodes that have a model.  reachable: all of them that can be reached.  facts: what this node tells
    of itself now.
    """
    node_id, replica, control = roots.me.node_id, roots.replica, roots.control
    spread = Spread(node_id, replica, roots.link, transfer, holders, reachable)
    capacities = Capacities(node_id, membership, facts, clock)
    return PlacementPart(
        placements=Placements(replica, control, capacities, spread, clock),
        drains=Drains(replica, control, membership, clock),
        spread_host=SpreadHost(replica, transfer),
        planner=Planner(node_id, roots.state, replica, control, membership, capacities, clock),
        keeper=NodeKeeper(node_id, replica, membership, agent, transfer, clock, on_event),
        end=DrainEnd(node_id, replica, clock, agent.stop_serving),
    )
