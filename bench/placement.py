"""What planning costs: milliseconds of CPU for 1,000 nodes and 200 models.

"first": nothing is placed yet.  "again": nothing has changed.  "lost": one node is gone.  "drained": one is emptied.
"short": memory for about two thirds of what is wanted, planned anew and again with one node lost.
The largest nodes hold about twenty replicas; a model has 1 to 20 of them, one in ten is pinned, one in five needs a
label.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from common import machine
from ollamamax.core.placement.facts import Availability, ModelNeed, NodeCapacity
from ollamamax.core.placement.plan import Plan, plan
from ollamamax.core.types import Assignment, Placement

NODES = 1_000
MODELS = 200
ROUNDS = 5
GIB = 1 << 30


def cluster(dice: random.Random, share: float) -> list[NodeCapacity]:
    """Machines of five sizes. share: of their usual memory."""
    return [
        NodeCapacity(
            node_id=f"{number:016x}",
            name=f"n{number}",
            total_bytes=int(dice.choice([8, 16, 24, 48, 80]) * share * GIB),
            labels={"gpu": "yes"} if number % 2 else {},
            has=frozenset(f"m{dice.randrange(MODELS)}:latest" for _ in range(10)),
            load=dice.random(),
        )
        for number in range(NODES)
    ]


def wishes(dice: random.Random, nodes: Sequence[NodeCapacity]) -> tuple[dict[str, Placement], list[ModelNeed]]:
    """What is asked for, and of which size."""
    placements, needs = {}, []
    for number in range(MODELS):
        key = f"m{number}:latest"
        pins = (dice.choice(nodes).node_id,) if number % 10 == 0 else ()
        labels = {"gpu": "yes"} if number % 5 == 1 else {}
        replicas = dice.randint(1, 20)
        placements[key] = Placement(name=key, replicas=replicas, changed_ns=number, pins=pins, labels=labels)
        size_bytes = dice.choice([4, 4, 5, 8, 8, 12, 20]) * GIB
        needs.append(ModelNeed(key=key, name=key, replica_bytes=size_bytes, disk_bytes=size_bytes))
    return placements, needs


def running(nodes: Sequence[NodeCapacity], current: Mapping[str, Assignment]) -> list[NodeCapacity]:
    """All that is assigned is ready."""
    ready: dict[str, dict[str, int]] = {node.node_id: {} for node in nodes}
    for key, assignment in current.items():
        for node_id, count in assignment.nodes.items():
            ready[node_id][key] = count
    return [replace(node, ready=ready[node.node_id]) for node in nodes]


def without(
    nodes: Sequence[NodeCapacity], current: Mapping[str, Assignment], state: Availability
) -> list[NodeCapacity]:
    """The node with the most replicas is not there any more, or not for long."""
    busiest = max(nodes, key=lambda node: len(node.ready)).node_id
    return [replace(node, availability=state) if node.node_id == busiest else node for node in nodes]


def timed(work: Callable[[], Plan]) -> tuple[Plan, float]:
    """What came out, and milliseconds: the middle of some rounds."""
    took = []
    for _ in range(ROUNDS):
        start = time.process_time()
        made = work()
        took.append((time.process_time() - start) * 1e3)
    return made, statistics.median(took)


def row(name: str, made: Plan, took_ms: float) -> None:
    """One line of the table."""
    placed = sum(sum(one.nodes.values()) for one in made.assignments.values())
    missing = sum(one.missing for one in made.assignments.values())
    print(f"| {name} | {took_ms:.0f} | {placed} | {missing} | {len(made.changed)} |")


def measure(share: float, title: str) -> None:
    """One cluster's rows."""
    dice = random.Random(1)
    nodes = cluster(dice, share)
    placements, needs = wishes(dice, nodes)
    made, took_ms = timed(lambda: plan(placements, nodes, needs, {}, 1))
    row(f"{title}first", made, took_ms)
    current = dict(made.assignments)
    warm = running(nodes, current)
    row(f"{title}again", *timed(lambda: plan(placements, warm, needs, current, 2)))
    for name, state in (("lost", Availability.GONE), ("drained", Availability.DRAINING)):
        fewer = without(warm, current, state)
        row(f"{title}{name}", *timed(lambda fewer=fewer: plan(placements, fewer, needs, current, 2)))
    key = max(placements, key=lambda key: len(made.assignments[key].nodes))
    start = time.process_time()
    text = made.decision(key).explain()
    took_ms = (time.process_time() - start) * 1e3
    print(f"| {title}explained: {len(text.splitlines())} lines | {took_ms:.0f} | | | |")


def main() -> None:
    """Print the table."""
    print(f"machine: {machine()}\n\n{NODES} nodes, {MODELS} models\n")
    print("| | ms | replicas | missing | assignments changed |\n|---|---|---|---|---|")
    measure(1.0, "")
    measure(0.35, "short: ")


if __name__ == "__main__":
    main()
