"""Random commands, some computed from old catalogs, against plain dicts.

A transaction from an old catalog either fails its compares, and is then computed anew as every writer does, or it has
exactly the effect that the command has now.
"""

from catalog_oracle import Oracle
from catalog_world import SECRETS, World, founder, founding, id_of, joining, key_of, meta, token
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ollamamax.core.catalog import commands
from ollamamax.core.catalog.apply import apply
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    BeginMove,
    ChangeSettings,
    Command,
    DropModel,
    DropPlacement,
    DropToken,
    EndDrain,
    FinishMove,
    FoundCluster,
    RemoveNode,
    RenameNode,
    RollbackSettings,
    SetAddresses,
    SetAssignment,
    SetCordon,
    SetDrain,
    SetHosts,
    SetInstance,
    SetLabels,
    SetModel,
    SetPlacement,
    SweepTokens,
    TakePlanner,
    UndoMove,
)
from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.types import Assignment, Delete, Drain, ModelEntry, Placement, StateHome, StateTxn

NUMBERS = st.integers(1, 4)
IDS = NUMBERS.map(id_of)
NAMES = st.sampled_from(["ada", "bob", "ada-2"])
ADDRESSES = st.sampled_from([("a:1",), ("[::1]:3", "b:2"), ()])
VERSIONS = st.sampled_from(["1.0", "2.0"])
DIGESTS = st.sampled_from(["a" * 64, "b" * 64])
MODELS = st.sampled_from(["tiny:latest", "Tiny:latest"])
LABELS = st.sampled_from(["zone", "gpu"])
INSTANCES = st.sampled_from(["i", "j"])
TOKENS = st.integers(1, 2)
TIMES = st.sampled_from([1, 1, 1, 5])
LEVELS = st.sampled_from([2, 2, 2, 2, 1])
SETTINGS = st.sampled_from(["a", "b.c"])
VALUES = st.dictionaries(SETTINGS, st.sampled_from(["1", "2"]), max_size=2)
UNSET = st.lists(SETTINGS, max_size=1).map(tuple)
EXPECTED = st.none() | st.integers(0, 3)
SOON, LATE = 3, 99
Commands = st.SearchStrategy[Command]


def about_nodes(numbers: st.SearchStrategy[int]) -> Commands:
    ids = numbers.map(id_of)
    news = {"addresses": ADDRESSES, "version": VERSIONS, "level": LEVELS}
    return st.one_of(
        st.builds(joining, numbers, NAMES, token_number=TOKENS, at_ns=TIMES, **news),
        st.builds(joining, numbers, NAMES, key=NUMBERS, secret=st.sampled_from(SECRETS), at_ns=TIMES),
        st.builds(RemoveNode, ids, TIMES),
        st.builds(RenameNode, ids, NAMES),
        st.builds(SetAddresses, ids, **news),
        st.builds(SetLabels, ids, st.dictionaries(LABELS, NAMES), st.lists(LABELS, max_size=2).map(tuple)),
        st.builds(SetCordon, ids, st.booleans()),
        st.builds(SetInstance, ids, INSTANCES, st.integers(1, 2), INSTANCES | st.just("")),
        st.builds(TakePlanner, ids, st.integers(1, 2)),
        st.builds(SetDrain, st.builds(Drain, node_id=ids, since_ns=TIMES, deadline_ns=st.sampled_from([0, 9]))),
        st.builds(EndDrain, ids),
        placements(ids),
        st.builds(ChangeSettings, TIMES, VALUES, UNSET, ids | st.just(""), expected=EXPECTED),
        st.builds(SetHosts, several(ids), expected=st.none() | several(ids)),
    )


def several(ids: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(ids, min_size=1, max_size=3, unique=True).map(tuple)


def placements(ids: st.SearchStrategy[str]) -> Commands:
    pins = st.lists(ids, max_size=2).map(tuple)
    return st.builds(
        SetPlacement, st.builds(Placement, name=MODELS, replicas=st.integers(2, 3), pins=pins, changed_ns=TIMES)
    )


def about_tokens(numbers: st.SearchStrategy[int]) -> Commands:
    return st.one_of(
        st.builds(token, numbers, st.integers(1, 3), st.sampled_from([SOON, LATE])),
        st.builds(joining, NUMBERS, NAMES, token_number=numbers, at_ns=TIMES),
        st.builds(DropToken, numbers.map(id_of)),
        st.builds(SweepTokens, TIMES),
    )


ENTRIES = st.builds(ModelEntry, name=MODELS, digest=DIGESTS, size_bytes=st.just(1), changed_ns=TIMES)
ABOUT_MODELS: Commands = st.builds(SetModel, ENTRIES, st.none() | st.just("") | DIGESTS) | st.builds(DropModel, MODELS)
ABOUT_PLACES: Commands = placements(IDS) | st.builds(DropPlacement, MODELS)
ABOUT_SETTINGS: Commands = st.one_of(
    st.builds(ChangeSettings, TIMES, VALUES, UNSET, IDS | st.just(""), expected=EXPECTED),
    st.builds(RollbackSettings, st.integers(0, 4), TIMES, expected=EXPECTED),
)
TARGETS = st.one_of(
    st.builds(StateHome, kind=st.just("etcd"), hosts=several(IDS)),
    st.builds(StateHome, kind=st.just("external"), hosts=several(IDS), endpoints=st.just(("etcd:2379",))),
    st.builds(StateHome, kind=st.just("sqlite"), hosts=IDS.map(lambda node_id: (node_id,))),
)
ANY_COMMAND: Commands = st.one_of(
    about_nodes(NUMBERS), about_tokens(TOKENS), ABOUT_MODELS, ABOUT_PLACES, ABOUT_SETTINGS
)
AT_ONCE: st.SearchStrategy[list[Command]] = st.one_of(
    *(st.lists(about_nodes(st.just(number)), min_size=2, max_size=4) for number in (2, 3)),
    *(
        st.lists(some, min_size=2, max_size=4)
        for some in (ANY_COMMAND, ABOUT_MODELS, about_tokens(st.just(1)), ABOUT_PLACES, ABOUT_SETTINGS)
    ),
)
FOUNDING = st.integers(1, 2).map(
    lambda number: FoundCluster(meta(holder_id=id_of(number)), founder(node_id=id_of(number), key_hash=key_of(number)))
)
OLD_CATALOGS = 8


class Writers(RuleBasedStateMachine):
    """A store, writers that are some revisions behind, and the dumb model."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.oracle = Oracle()
        self.past: list[Catalog] = [self.world.catalog]
        self.targets: list[StateHome] = []

    @initialize(
        numbers=st.none() | st.lists(NUMBERS.filter(lambda number: number > 1), unique=True),
        kind=st.sampled_from(["sqlite", "etcd", "external"]),
    )
    def begin(self, numbers: list[int] | None, kind: str) -> None:
        """Mostly with a cluster of some nodes, one of which plans: what is interesting happens there."""
        if numbers is None:
            return
        joinings = [joining(number, "bob", at_ns=1) for number in numbers]
        for command in (founding(), token(1, 9, LATE), *joinings, TakePlanner(id_of(1), 1)):
            self.write(command, self.world.catalog)
        if kind != "sqlite":
            self.move(kind)

    @precondition(lambda self: self.world.catalog.nodes)
    @rule(kind=st.sampled_from(["sqlite", "etcd", "external"]))
    def move(self, kind: str) -> None:
        """From the beginning to the end, as far as nothing is in the way: to the newest members."""
        hosts = tuple(self.world.catalog.nodes)[-1 if kind == "sqlite" else -2 :]
        aim = StateHome(kind=kind, hosts=hosts, endpoints=("etcd:2379",) if kind == "external" else ())
        self.begin_a_move(aim, hosts[0], 0)
        if self.world.catalog.home.target is not None:
            self.write(FinishMove(self.world.catalog.home.target), self.world.catalog)

    @rule(command=FOUNDING, age=st.integers(0, OLD_CATALOGS))
    def found(self, command: Command, age: int) -> None:
        self.write(command, self.aged(age))

    @rule(command=ANY_COMMAND)
    def change(self, command: Command) -> None:
        self.write(command, self.world.catalog)

    @rule(command=ANY_COMMAND, age=st.integers(1, OLD_CATALOGS))
    def change_late(self, command: Command, age: int) -> None:
        self.write(command, self.aged(age))

    @rule(some=AT_ONCE)
    def change_at_once(self, some: list[Command]) -> None:
        catalog = self.world.catalog
        for command in some:
            self.write(command, catalog)

    @rule(node_id=IDS, is_planner=st.booleans())
    def lose_a_lease(self, node_id: str, is_planner: bool) -> None:
        if is_planner:
            key, self.oracle.planner = "planner", ""
        else:
            key = f"instances/{node_id}"
            self.oracle.instances.pop(node_id, None)
        assert self.world.try_txn(StateTxn((), (Delete(key),)))
        self.remember()

    @rule(data=st.data(), name=MODELS, seen=st.integers(0, 3), age=st.integers(0, 3))
    def decide(self, data: st.DataObject, name: str, seen: int, age: int) -> None:
        """By a planner that planned from an old catalog, told by a node whose own may be older or newer."""
        nodes = data.draw(st.dictionaries(IDS, st.integers(1, 2), max_size=2))
        saw = self.aged(seen)
        planner = saw.planner or data.draw(IDS)
        key = name.lower()
        self.write(
            SetAssignment(
                Assignment(name=name, nodes=nodes, decided_ns=data.draw(TIMES)),
                planner,
                saw.revision_of(f"placements/{key}"),
                saw.revision_of(f"assignments/{key}"),
            ),
            self.aged(age),
        )

    @rule(aim=TARGETS, mover=IDS, age=st.integers(0, 3))
    def begin_a_move(self, aim: StateHome, mover: str, age: int) -> None:
        self.write(BeginMove(aim, mover), self.aged(age))
        if self.world.catalog.home.target is not None:
            self.targets.append(self.world.catalog.home.target)

    @precondition(lambda self: self.targets)
    @rule(data=st.data(), is_finished=st.booleans(), age=st.integers(0, 3))
    def end_a_move(self, data: st.DataObject, is_finished: bool, age: int) -> None:
        target = data.draw(st.sampled_from(self.targets[-1:] * 3 + self.targets))
        self.write(FinishMove(target) if is_finished else UndoMove(target), self.aged(age))

    def aged(self, age: int) -> Catalog:
        return self.past[max(0, len(self.past) - 1 - age)]

    def remember(self) -> None:
        self.past = [*self.past, self.world.catalog][-OLD_CATALOGS:]

    def write(self, command: Command, catalog: Catalog) -> None:
        """As a writer does it who has that catalog."""
        command = commands.decode(commands.encode(command))
        is_newest = catalog is self.world.catalog
        self.oracle.revisions = {key: entry.revision for key, entry in self.world.store.entries.items()}
        refused: type[OllamaMaxError] | None = None
        try:
            txn = apply(catalog, command)
        except OllamaMaxError as error:
            refused = type(error)
        if refused is not None:
            # Of an old catalog an error says nothing: the writer catches up first.
            assert not is_newest or self.oracle.expects(command) is refused
        elif self.world.try_txn(txn):
            self.expect(command, txn)
            self.remember()
        else:
            assert not is_newest, "nothing but a change fails a compare"
            self.write(command, self.world.catalog)

    def expect(self, command: Command, txn: StateTxn) -> None:
        """Tell the oracle of a transaction that was carried out."""
        if isinstance(command, SweepTokens):
            swept = {write.key.removeprefix("tokens/") for write in txn.writes}
            expired = {key for key, it in self.oracle.tokens.items() if it.expires_ns <= command.at_ns}
            assert swept <= expired, "an old catalog may lack some; the next sweep gets them"
            for token_id in swept:
                del self.oracle.tokens[token_id]
        elif isinstance(command, DropToken | DropModel):
            self.oracle.expects(command)  # gone is gone, with or without an error
        else:
            assert self.oracle.expects(command) is None

    @invariant()
    def the_catalog_is_the_model(self) -> None:
        self.world.catalog.check_invariants()
        self.oracle.check(self.world.catalog)


Writers.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestWriters = Writers.TestCase
