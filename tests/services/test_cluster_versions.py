"""What the cluster tells people while its nodes run different programs."""

from typing import Any, cast

from peers_world import facts_of, node_id_of, record_of

from ollamamax.core.catalog.levels import NEW_AT
from ollamamax.core.catalog.records import LEVEL, encode, node_key
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.types import Put, StateTxn
from ollamamax.services.cluster import Cluster, Doors
from ollamamax.services.control import Control
from ollamamax.services.draining import Drains
from ollamamax.services.events import EventLog
from ollamamax.services.membership_config import PeerView
from ollamamax.services.replica import Replica
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.state import MemorySnapshot, MemoryState

HASH = "0" * 64


class Seen:
    """What node `here` sees of the others."""

    def __init__(self) -> None:
        self.views: dict[str, PeerView] = {}

    def peers(self) -> dict[str, PeerView]:
        return self.views

    def tell(self, name: str, state: PeerState = PeerState.ALIVE, **facts: Any) -> None:
        self.views[node_id_of(name)] = PeerView(
            record=record_of(name), facts=facts_of(name, **facts), facts_at_ms=0.0, state=state, since_ms=0.0
        )


async def cluster(seen: Seen, **levels: int) -> Cluster:
    """Node `here` and those with these levels."""
    clock = FakeClock()
    state = MemoryState(clock)
    replica = Replica(state, MemorySnapshot(), clock, SeededDice())
    control = Control(state, replica, SeededDice())
    await replica.open()
    members = {"here": LEVEL, **levels}
    for sequence, (name, level) in enumerate(members.items(), 1):
        record = record_of(name, sequence, key_hash=HASH, level=level)
        await state.txn(StateTxn((), (Put(node_key(record.node_id), encode(record)),)))
    await replica.refresh()
    doors = Doors(
        certificate_expires_ns=lambda: 0,
        join=_nobody,
        discover=_nobody,
        start_anew=lambda: None,
        let_go=_nobody,
        home_troubles=lambda: (),
    )
    membership = cast(Any, seen)
    drains = Drains(replica, control, membership, clock)
    return Cluster(
        node_id_of("here"),
        replica,
        control,
        membership,
        cast(Any, None),
        EventLog(),
        lambda: facts_of("here"),
        clock,
        doors,
        drains,
    )


async def _nobody(*_: object) -> Any:
    raise AssertionError("nobody is asked")


async def test_what_waits_is_told_with_whom_it_waits_for() -> None:
    seen = Seen()
    made = await cluster(seen, old=1, new=LEVEL)
    seen.tell("old", version="0.9")
    seen.tell("new", version="1.1", protocol_max=2)
    assert made.status().waits == (f"{NEW_AT[2]} wait for old (1)",)
    assert made.status().versions == {"1": 1, "0.9": 1, "1.1": 1}
    assert [(node.name, node.level, node.protocol) for node in made.nodes()] == [
        ("here", LEVEL, "1"),
        ("old", 1, "1"),
        ("new", LEVEL, "1-2"),
    ]
    assert made.status().degraded == ()
    assert (await cluster(Seen(), new=LEVEL)).status().waits == ()
    assert (await cluster(Seen(), new=LEVEL)).node("new").protocol == "", "it has told nothing yet"


async def test_nodes_that_do_not_understand_each_other_are_told() -> None:
    seen = Seen()
    made = await cluster(seen, far=LEVEL)
    seen.tell("far", version="9.0", protocol_min=7, protocol_max=9)
    (said,) = made.degraded()
    assert said.startswith("node far runs version 9.0, with which this one can't work together")
    seen.tell("far", PeerState.GONE, version="9.0", protocol_min=7, protocol_max=9)
    assert made.degraded() == []
