"""Small clusters, and a dumb exhaustive search over them that knows nothing of how plans are made."""

from collections.abc import Mapping
from functools import cache
from itertools import product

from hypothesis import strategies as st

from ollamamax.core.placement.facts import Availability, ModelNeed, NodeCapacity
from ollamamax.core.placement.plan import Plan, plan
from ollamamax.core.types import Assignment, Placement

GIB = 1 << 30
NODES = "abcd"
MODELS = "wxyz"


def node(
    name: str,
    total: int = 10,
    *,
    labels: dict[str, str] | None = None,
    has: str = "",
    ready: dict[str, int] | None = None,
    load: float = 0.0,
    availability: Availability = Availability.OPEN,
    gone_since_ns: int = 0,
) -> NodeCapacity:
    """total: in GiB.  The node's id is its name."""
    return NodeCapacity(
        node_id=name,
        name=f"node-{name}",
        total_bytes=total * GIB,
        labels=labels or {},
        has=frozenset(has),
        ready=ready or {},
        load=load,
        availability=availability,
        gone_since_ns=gone_since_ns,
    )


def need(key: str, size: int) -> ModelNeed:
    """size: in GiB."""
    return ModelNeed(key=key, name=f"{key}:latest", replica_bytes=size * GIB, disk_bytes=size * GIB // 2)


def asked(
    key: str,
    replicas: int = 1,
    changed_ns: int = 0,
    pins: str = "",
    labels: dict[str, str] | None = None,
    max_replicas: int = 0,
) -> Placement:
    return Placement(
        name=f"{key}:latest",
        replicas=replicas,
        changed_ns=changed_ns,
        pins=tuple(pins),
        labels=labels or {},
        max_replicas=max_replicas,
    )


def assigned(key: str, nodes: Mapping[str, int], missing: int = 0) -> Assignment:
    return Assignment(name=f"{key}:latest", nodes=dict(nodes), decided_ns=1, missing=missing)


class World:
    """A cluster, and what runs in it."""

    def __init__(
        self,
        placements: Mapping[str, Placement],
        nodes: list[NodeCapacity],
        models: list[ModelNeed],
        current: Mapping[str, Assignment] | None = None,
    ) -> None:
        self.placements, self.nodes, self.models = dict(placements), nodes, models
        self.current = dict(current or {})
        self.extra: dict[str, int] = {}
        self.now_ns = 10

    def __repr__(self) -> str:
        return f"World({self.placements!r}, {self.nodes!r}, {self.models!r}, {self.current!r})"

    def plan(self) -> Plan:
        return plan(self.placements, self.nodes, self.models, self.current, self.now_ns, self.extra)

    def agree(self) -> Plan:
        """Plan, and take the result over."""
        made = self.plan()
        self.current = dict(made.assignments)
        self.now_ns += 1
        return made

    def change(self, name: str, **fields: object) -> None:
        """Something about a node is other than before."""
        self.nodes = [
            NodeCapacity(**{**{f: getattr(one, f) for f in one.__struct_fields__}, **fields})
            if one.node_id == name
            else one
            for one in self.nodes
        ]

    def load_all(self) -> None:
        """All that is assigned is ready, and nothing else."""
        for one in self.nodes:
            ready = {key: made.nodes[one.node_id] for key, made in self.current.items() if one.node_id in made.nodes}
            if one.availability is not Availability.GONE:
                self.change(one.node_id, ready=ready, has=one.has | ready.keys())

    def settle(self) -> None:
        """Until all that is assigned is ready and nothing changes."""
        for _ in range(10):
            self.agree()
            self.load_all()
            if not self.plan().changed:
                return
        raise AssertionError("it does not come to rest")

    def where(self, key: str) -> dict[str, int]:
        return dict(self.current[key].nodes)

    # --- the dumb search --------------------------------------------------------------------------------------

    def by_age(self) -> list[str]:
        return sorted(self.placements, key=lambda key: (self.placements[key].changed_ns, key))

    def limit(self, key: str, one: NodeCapacity, cap: int) -> int:
        """Replicas of the model that the node may hold, were it empty of others."""
        sizes = {model.key: model.replica_bytes for model in self.models}
        labels = self.placements[key].labels
        if key not in sizes or sizes[key] > one.total_bytes or not labels.items() <= one.labels.items():
            return 0
        if one.availability is Availability.CORDONED:
            now = self.current[key].nodes.get(one.node_id, 0) if key in self.current else 0
            return min(cap, now)
        return cap if one.availability is Availability.OPEN else 0

    def cap(self, key: str) -> int:
        placement = self.placements[key]
        wanted = max(placement.replicas, len(placement.pins))
        takers = [one for one in self.nodes if one.availability is Availability.OPEN and self.limit(key, one, wanted)]
        return wanted if len(takers) < wanted else 1

    def best_pins(self) -> set[tuple[str, str]]:
        """Pins that can be held, one after the other."""
        sizes = {model.key: model.replica_bytes for model in self.models}
        by_id = {one.node_id: one for one in self.nodes}
        held: set[tuple[str, str]] = set()
        for key in self.by_age():
            for pin in self.placements[key].pins if self.placements[key].replicas else ():
                taken = sum(sizes[other] for other, where in held if where == pin)
                if pin in by_id and self.limit(key, by_id[pin], 1) and taken + sizes[key] <= by_id[pin].total_bytes:
                    held.add((key, pin))
        return held

    def best_counts(self, pins: set[tuple[str, str]]) -> dict[str, int]:
        """Replicas beside pins, one after the other, each if all before it and this one can be held at once."""
        counts = dict.fromkeys(self.by_age(), 0)
        for key in counts:
            placement = self.placements[key]
            held = sum(key == pinned for pinned, _ in pins)
            wanted = placement.replicas - held if placement.replicas > len(placement.pins) else 0
            while counts[key] < wanted and self.can_hold({**counts, key: counts[key] + 1}, pins):
                counts[key] += 1
        return counts

    def most(self) -> int:
        """How many replicas any arrangement can hold; of placements without pins."""
        keys = self.by_age()
        choices = product(*[range(self.placements[key].replicas + 1) for key in keys])
        return max(sum(counts) for counts in choices if self.can_hold(dict(zip(keys, counts, strict=True)), set()))

    def can_hold(self, counts: Mapping[str, int], pins: set[tuple[str, str]]) -> bool:
        sizes = {model.key: model.replica_bytes // GIB for model in self.models}
        keys = [key for key, count in counts.items() if count]
        if any(key not in sizes for key in keys):
            return False
        free = [one.total_bytes // GIB - sum(sizes[k] for k, at in pins if at == one.node_id) for one in self.nodes]
        limits = [
            [self.limit(key, one, self.cap(key)) - ((key, one.node_id) in pins) for one in self.nodes] for key in keys
        ]

        @cache
        def seat(which: int, where: int, left: int, room: tuple[int, ...]) -> bool:
            if which == len(keys):
                return True
            if not left:
                return which + 1 == len(keys) or seat(which + 1, 0, counts[keys[which + 1]], room)
            if where == len(room):
                return False
            size = sizes[keys[which]]
            for here in range(min(left, max(0, limits[which][where])) + 1):
                if here * size > room[where]:
                    return False
                rest = (*room[:where], room[where] - here * size, *room[where + 1 :])
                if seat(which, where + 1, left - here, rest):
                    return True
            return False

        return not keys or seat(0, 0, counts[keys[0]], tuple(free))


@st.composite
def worlds(draw: st.DrawFn, sizes: st.SearchStrategy[int] | None = None, pinned: bool = True) -> World:
    """Up to four nodes and four models, in any state."""
    names = NODES[: draw(st.integers(1, 4))]
    keys = MODELS[: draw(st.integers(1, 4))]
    labels = st.sampled_from([{}, {}, {"gpu": "yes"}])
    counts = st.dictionaries(st.sampled_from(keys), st.integers(1, 2), max_size=2)
    nodes = [
        node(
            name,
            draw(st.integers(0, 12)),
            labels=draw(labels),
            has="".join(draw(st.sets(st.sampled_from(keys)))),
            ready=draw(counts),
            load=draw(st.sampled_from([0.0, 0.5, 1.0])),
            availability=draw(st.sampled_from([*[Availability.OPEN] * 5, *Availability])),
        )
        for name in names
    ]
    placements = {
        key: asked(
            key,
            draw(st.integers(0, 4)),
            draw(st.integers(0, 3)),
            "".join(draw(st.lists(st.sampled_from(names + "?"), max_size=2, unique=True))) if pinned else "",
            draw(labels),
        )
        for key in keys
    }
    current = {
        key: assigned(key, draw(st.dictionaries(st.sampled_from(NODES), st.integers(1, 2), max_size=3)))
        for key in draw(st.sets(st.sampled_from(MODELS)))
    }
    known = keys if draw(st.integers(0, 9)) else keys[1:]
    if sizes is None:
        sizes = st.integers(1, 8)
    return World(placements, nodes, [need(key, draw(sizes)) for key in known], current)
