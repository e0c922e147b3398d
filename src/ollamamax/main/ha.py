"""How a node's part in holding the state is put together."""

from collections.abc import Callable, Sequence

from ollamamax.adapters.state.backups import FileBackups
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.types import ClusterEvent, NodeRecord
from ollamamax.main.papers import cluster_home
from ollamamax.main.roots import Roots, etcd_ports
from ollamamax.ports import Clock
from ollamamax.services.ha import Ha
from ollamamax.services.ha_calls import HaCalls
from ollamamax.services.ha_care import Care
from ollamamax.services.ha_members import Members
from ollamamax.services.ha_move import HomeMover
from ollamamax.services.membership import Membership
from ollamamax.services.voter import Voter
from ollamamax.settings import Settings


def build_ha(
    settings: Settings,
    roots: Roots,
    alive: Callable[[], Sequence[NodeRecord]],
    find: Callable[[str], NodeRecord],
    on_event: Callable[[ClusterEvent], None],
    clock: Clock,
) -> Ha:
    """alive: the other nodes that answer.  find: where a node is found now."""
    voter, replica, control, keys = roots.voter, roots.replica, roots.control, roots.keys
    backups = FileBackups(cluster_home(settings) / "backups", roots.me.cluster_id)
    calls = HaCalls(voter, roots.etcd, roots.seats, roots.link, find, lambda: etcd_ports(voter.place))
    return Ha(
        voter,
        HomeMover(roots.me.node_id, voter, roots.own, roots.state, replica, control),
        Members(voter, calls, keys, replica, control, alive, find),
        Care(voter, replica, backups, on_event, clock),
        calls,
        keys,
        roots.state,
        replica,
        roots.link,
        backups,
        alive,
        find,
    )


def hear_of_newer_homes(membership: Membership, voter: Voter) -> None:
    """From now on: what others tell of the state's home is looked into."""

    def look() -> None:
        for view in membership.peers().values():
            if view.facts is not None and view.state is PeerState.ALIVE:
                voter.heard(view.record, view.facts.state_generation)

    membership.watch(look)
