"""What commands do, told anew with plain dicts and no thought for speed, revisions or other writers."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field

from msgspec.structs import replace

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    AddNode,
    AddToken,
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
from ollamamax.core.errors import (
    Conflict,
    NodeConflict,
    NodeNotFound,
    NotFound,
    OllamaMaxError,
    StateUnavailable,
    TokenRefused,
)
from ollamamax.core.types import Drain, NodeRecord, Placement, StateHome

Names = dict[str, str]


@dataclass
class Member:
    name: str
    addresses: tuple[str, ...]
    sequence: int
    key_hash: str
    version: str
    level: int
    labels: dict[str, str] = field(default_factory=dict)
    cordoned: bool = False


@dataclass
class Token:
    secret_hash: str
    expires_ns: int
    uses_left: int


@dataclass
class Settings:
    values: Names = field(default_factory=dict)
    of_nodes: dict[str, Names] = field(default_factory=dict)


@dataclass
class Oracle:
    """The dumb model. run() changes it, or raises the class of error that apply() has to raise.

    revisions: of the store's keys, as they were before the command.  move: who moves the state, and where to.
    """

    revisions: dict[str, int] = field(default_factory=dict)
    holder: str | None = None
    home: StateHome = StateHome()
    move: tuple[str, StateHome] | None = None
    members: dict[str, Member] = field(default_factory=dict)
    joined: int = 0
    revoked: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    models: dict[str, tuple[str, int]] = field(default_factory=dict)
    deleted: dict[str, list[str]] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    placements: dict[str, Placement] = field(default_factory=dict)
    assignments: dict[str, tuple[str, dict[str, int]]] = field(default_factory=dict)
    drains: dict[str, Drain] = field(default_factory=dict)
    planner: str = ""
    versions: list[Settings] = field(default_factory=lambda: [Settings()])
    settings: Settings = field(default_factory=Settings)

    def run(self, command: Command) -> None:
        if isinstance(command, FoundCluster):
            return self.found(command)
        if self.holder is None:
            raise Conflict
        if isinstance(command, BeginMove | FinishMove | UndoMove):
            return self.change_move(command)
        if self.move is not None:
            raise StateUnavailable
        if isinstance(command, SetPlacement | SetDrain | ChangeSettings | RollbackSettings):
            self.need_level(self.members)
        if isinstance(command, SetPlacement | DropPlacement | SetAssignment):
            return self.change_placements(command)
        if isinstance(command, ChangeSettings | RollbackSettings):
            return self.change_settings(command)
        if isinstance(command, SetHosts):
            return self.set_hosts(command)
        if isinstance(command, AddNode):
            return self.join(command)
        if isinstance(command, AddToken | DropToken | SweepTokens):
            return self.change_tokens(command)
        if isinstance(command, SetModel | DropModel):
            return self.change_models(command)
        if isinstance(command, RemoveNode) and command.node_id in self.revoked:
            return None
        node_id = command.record.node_id if isinstance(command, SetDrain) else command.node_id
        self.need_members(node_id)
        if isinstance(command, SetDrain | EndDrain | TakePlanner):
            return self.change_duties(command, node_id)
        return self.change_member(command, self.members[node_id])

    def need_members(self, *node_ids: str) -> None:
        if not set(node_ids) <= self.members.keys():
            raise NodeNotFound

    def need_level(self, node_ids: Iterable[str]) -> None:
        if any(self.members[node_id].level < 2 for node_id in node_ids):
            raise Conflict

    def found(self, command: FoundCluster) -> None:
        if self.holder is not None:
            if self.holder != command.node.node_id:
                raise Conflict
            return
        self.holder = command.node.node_id
        self.home = StateHome(hosts=(self.holder,))
        self.add(command.node.node_id, command.node.name, command.node)

    def add(self, node_id: str, name: str, source: AddNode | NodeRecord) -> None:
        self.joined += 1
        of = source
        self.members[node_id] = Member(name, of.addresses, self.joined, of.key_hash, of.version, of.level)

    def join(self, command: AddNode) -> None:
        token = self.tokens.get(command.token_id)
        if token is None or token.secret_hash != command.secret_hash or token.expires_ns <= command.at_ns:
            raise TokenRefused
        if command.node_id in self.revoked or command.key_hash in self.revoked.values():
            raise NodeConflict
        same_id = {command.node_id} & self.members.keys()
        same_key = {node_id for node_id, member in self.members.items() if member.key_hash == command.key_hash}
        if same_id != same_key:
            raise NodeConflict
        if self.home.kind != "sqlite" and command.level < 2:
            raise Conflict
        if same_id:
            member = self.members[command.node_id]
            member.addresses, member.version, member.level = command.addresses, command.version, command.level
            return
        if token.uses_left == 0:
            raise TokenRefused
        token.uses_left -= 1
        taken = [member.name for member in self.members.values()]
        names = [command.name, *(f"{command.name}-{number}" for number in range(2, 100))]
        self.add(command.node_id, next(name for name in names if name not in taken), command)

    def change_tokens(self, command: AddToken | DropToken | SweepTokens) -> None:
        match command:
            case AddToken(record):
                new = Token(record.secret_hash, record.expires_ns, record.uses_left)
                if self.tokens.setdefault(record.token_id, new).secret_hash != record.secret_hash:
                    raise Conflict
            case DropToken(token_id):
                if self.tokens.pop(token_id, None) is None:
                    raise NotFound
            case SweepTokens(at_ns):
                self.tokens = {key: token for key, token in self.tokens.items() if token.expires_ns > at_ns}

    def change_models(self, command: SetModel | DropModel) -> None:
        match command:
            case DropModel(name):
                if name.lower() not in self.models:
                    raise NotFound
                self.deleted.setdefault(name.lower(), []).append(self.models.pop(name.lower())[0])
            case SetModel(entry, replaced):
                key = entry.name.lower()
                stands = self.models[key][0] if key in self.models else ""
                if stands != entry.digest and replaced not in (None, stands):
                    raise Conflict
                if not stands and replaced == "" and entry.digest in self.deleted.get(key, []):
                    raise Conflict
                self.models[key] = (entry.digest, entry.size_bytes)
                if entry.digest in self.deleted.get(key, []):
                    self.deleted[key].remove(entry.digest)

    def change_member(self, command: Command, member: Member) -> None:
        match command:
            case RemoveNode(node_id):
                if node_id in self.home.hosts:
                    if self.home.kind != "external" or len(self.home.hosts) == 1:
                        raise Conflict
                    self.home = replace(self.home, hosts=tuple(it for it in self.home.hosts if it != node_id))
                self.revoked[node_id] = self.members.pop(node_id).key_hash
                self.instances.pop(node_id, None)
                self.forget(node_id)
            case RenameNode(node_id, name):
                if any(other.name == name and key != node_id for key, other in self.members.items()):
                    raise NodeConflict
                member.name = name
            case SetAddresses(_, addresses, version, level):
                member.addresses, member.version, member.level = addresses, version, level
            case SetLabels(_, labels, unset):
                for key in unset:
                    member.labels.pop(key, None)
                member.labels.update(labels)
            case SetCordon(_, cordoned):
                member.cordoned = cordoned
            case SetInstance(node_id, instance, _, expected):
                if self.instances.get(node_id, instance) not in (instance, expected):
                    raise NodeConflict
                self.instances[node_id] = instance

    def forget(self, node_id: str) -> None:
        for key, asked in self.placements.items():
            self.placements[key] = replace(asked, pins=tuple(pin for pin in asked.pins if pin != node_id))
        for _, nodes in self.assignments.values():
            nodes.pop(node_id, None)
        self.drains.pop(node_id, None)
        self.settings.of_nodes.pop(node_id, None)
        if self.planner == node_id:
            self.planner = ""

    def change_placements(self, command: SetPlacement | DropPlacement | SetAssignment) -> None:
        match command:
            case SetPlacement(record):
                self.need_members(*record.pins)
                key = record.name.lower()
                self.placements[key] = replace(record, pins=tuple(sorted(set(record.pins))))
            case DropPlacement(name):
                if self.placements.pop(name.lower(), None) is None:
                    raise NotFound
                self.assignments.pop(name.lower(), None)
            case SetAssignment(record, planner, placement_revision, assignment_revision):
                key = record.name.lower()
                if planner != self.planner:
                    raise Conflict
                self.need_members(*record.nodes)
                self.need_level(record.nodes)
                if self.revisions.get(f"placements/{key}", 0) != placement_revision:
                    raise Conflict
                wanted = (record.name, dict(record.nodes)) if record.nodes or key in self.placements else None
                if self.assignments.get(key) == wanted:
                    return
                if self.revisions.get(f"assignments/{key}", 0) != assignment_revision:
                    raise Conflict
                self.assignments.pop(key, None)
                if wanted is not None:
                    self.assignments[key] = wanted

    def change_duties(self, command: SetDrain | EndDrain | TakePlanner, node_id: str) -> None:
        match command:
            case SetDrain(record):
                since_ns = self.drains[node_id].since_ns if node_id in self.drains else record.since_ns
                self.drains[node_id] = replace(record, since_ns=since_ns)
            case EndDrain():
                self.drains.pop(node_id, None)
            case TakePlanner():
                if self.planner not in ("", node_id):
                    raise Conflict
                self.planner = node_id

    def change_settings(self, command: ChangeSettings | RollbackSettings) -> None:
        new = deepcopy(self.settings)
        match command:
            case ChangeSettings():
                if command.node_id:
                    self.need_members(command.node_id)
                values = new.of_nodes.setdefault(command.node_id, {}) if command.node_id else new.values
                for key in command.unset:
                    values.pop(key, None)
                values.update(command.set)
            case RollbackSettings(version):
                if version >= len(self.versions):
                    raise NotFound
                new = deepcopy(self.versions[version])
        new.of_nodes = {key: its for key, its in new.of_nodes.items() if its and key in self.members}
        if new == self.settings:
            return
        if command.expected not in (None, len(self.versions) - 1):
            raise Conflict
        self.settings = new
        self.versions.append(deepcopy(new))

    def change_move(self, command: BeginMove | FinishMove | UndoMove) -> None:
        match command:
            case BeginMove(target, mover):
                self.need_level(self.members)
                self.need_members(mover, *target.hosts)
                hosts = tuple(sorted(target.hosts))
                wanted = replace(target, hosts=hosts, generation=self.home.generation + 1)
                if self.move not in (None, (mover, wanted)):
                    raise Conflict
                if wanted == replace(self.home, generation=wanted.generation):
                    raise Conflict
                self.move = (mover, wanted)
            case FinishMove(home):
                if home == self.home and self.move is None:
                    return
                if self.move is None or self.move[1] != home:
                    raise Conflict
                self.home, self.move = home, None
                if home.kind == "sqlite":
                    self.holder = home.hosts[0]
            case UndoMove(target):
                if target == self.home and self.move is None:
                    raise Conflict
                if self.move is not None and self.move[1] == target:
                    self.home, self.move = replace(self.home, generation=target.generation), None

    def set_hosts(self, command: SetHosts) -> None:
        if self.home.kind == "sqlite":
            raise Conflict
        self.need_members(*command.hosts)
        self.need_level(command.hosts)
        hosts = tuple(sorted(command.hosts))
        if hosts != self.home.hosts and command.expected not in (None, self.home.hosts):
            raise Conflict
        self.home = replace(self.home, hosts=hosts)

    def expects(self, command: Command) -> type[OllamaMaxError] | None:
        """Run it; the class of the error that it raises, or None."""
        try:
            self.run(command)
        except OllamaMaxError as error:
            return type(error)
        return None

    def check(self, catalog: Catalog) -> None:
        """The catalog says the same as this."""
        assert (catalog.meta.holder_id if catalog.meta else None) == self.holder
        assert list(catalog.nodes) == list(self.members)
        for node_id, member in self.members.items():
            node = catalog.nodes[node_id]
            assert member == Member(
                node.name,
                node.addresses,
                node.sequence,
                node.key_hash,
                node.version,
                node.level,
                node.labels,
                node.cordoned,
            )
        assert {key: gone.key_hash for key, gone in catalog.revoked.items()} == self.revoked
        tokens = {key: Token(it.secret_hash, it.expires_ns, it.uses_left) for key, it in catalog.tokens.items()}
        assert tokens == self.tokens
        assert {key: (it.digest, it.size_bytes) for key, it in catalog.models.items()} == self.models
        deleted = {key: tuple(digests) for key, digests in self.deleted.items() if digests}
        assert {key: it.digests for key, it in catalog.deleted.items()} == deleted
        assert dict(catalog.instances) == self.instances
        assert {key: replace(it, changed_ns=0) for key, it in catalog.placements.items()} == {
            key: replace(it, changed_ns=0) for key, it in self.placements.items()
        }
        assert {key: (it.name, it.nodes) for key, it in catalog.assignments.items()} == self.assignments
        assert catalog.drains == self.drains
        assert catalog.planner == self.planner
        self.check_settings(catalog)
        mover, target = self.move or ("", None)
        home = replace(catalog.home, phase="steady", mover="", target=None)
        assert (home, catalog.home.mover, catalog.home.target) == (self.home, mover, target)

    def check_settings(self, catalog: Catalog) -> None:
        head = catalog.settings
        assert (head.values, head.node_values) == (self.settings.values, self.settings.of_nodes)
        told = [Settings(it.values, it.node_values) for it in catalog.history.values()]
        assert told == self.versions[1:]
