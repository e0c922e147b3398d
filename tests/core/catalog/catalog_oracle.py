"""What commands do, told anew with plain dicts and no thought for speed, revisions or other writers."""

from dataclasses import dataclass, field

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    AddNode,
    AddToken,
    Command,
    DropModel,
    DropToken,
    FoundCluster,
    RemoveNode,
    RenameNode,
    SetAddresses,
    SetCordon,
    SetInstance,
    SetLabels,
    SetModel,
    SweepTokens,
)
from ollamamax.core.errors import Conflict, NodeConflict, NodeNotFound, NotFound, OllamaMaxError, TokenRefused


@dataclass
class Member:
    name: str
    addresses: tuple[str, ...]
    sequence: int
    key_hash: str
    version: str
    labels: dict[str, str] = field(default_factory=dict)
    cordoned: bool = False


@dataclass
class Token:
    secret_hash: str
    expires_ns: int
    uses_left: int


@dataclass
class Oracle:
    """The dumb model. run() changes it, or raises the class of error that apply() has to raise."""

    holder: str | None = None
    members: dict[str, Member] = field(default_factory=dict)
    joined: int = 0
    revoked: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    models: dict[str, tuple[str, int]] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)

    def run(self, command: Command) -> None:
        if isinstance(command, FoundCluster):
            return self.found(command)
        if self.holder is None:
            raise Conflict
        if isinstance(command, AddNode):
            return self.join(command)
        if isinstance(command, AddToken | DropToken | SweepTokens):
            return self.change_tokens(command)
        if isinstance(command, SetModel | DropModel):
            return self.change_models(command)
        if isinstance(command, RemoveNode) and command.node_id in self.revoked:
            return None
        if command.node_id not in self.members:
            raise NodeNotFound
        return self.change_member(command, self.members[command.node_id])

    def found(self, command: FoundCluster) -> None:
        if self.holder is not None:
            if self.holder != command.node.node_id:
                raise Conflict
            return
        self.holder = command.node.node_id
        self.add(command.node.node_id, command.node.name, command.node)

    def add(self, node_id: str, name: str, source: object) -> None:
        self.joined += 1
        addresses, key_hash, version = source.addresses, source.key_hash, source.version  # type: ignore[attr-defined]
        self.members[node_id] = Member(name, addresses, self.joined, key_hash, version)

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
        if same_id:
            member = self.members[command.node_id]
            member.addresses, member.version = command.addresses, command.version
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
                if self.models.pop(name.lower(), None) is None:
                    raise NotFound
            case SetModel(entry, replaced):
                key = entry.name.lower()
                stands = self.models[key][0] if key in self.models else ""
                if stands != entry.digest and replaced not in (None, stands):
                    raise Conflict
                self.models[key] = (entry.digest, entry.size_bytes)

    def change_member(self, command: Command, member: Member) -> None:
        match command:
            case RemoveNode(node_id):
                if node_id == self.holder:
                    raise Conflict
                self.revoked[node_id] = self.members.pop(node_id).key_hash
                self.instances.pop(node_id, None)
            case RenameNode(node_id, name):
                if any(other.name == name and key != node_id for key, other in self.members.items()):
                    raise NodeConflict
                member.name = name
            case SetAddresses(_, addresses, version):
                member.addresses, member.version = addresses, version
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
                node.name, node.addresses, node.sequence, node.key_hash, node.version, node.labels, node.cordoned
            )
        assert {key: gone.key_hash for key, gone in catalog.revoked.items()} == self.revoked
        tokens = {key: Token(it.secret_hash, it.expires_ns, it.uses_left) for key, it in catalog.tokens.items()}
        assert tokens == self.tokens
        assert {key: (it.digest, it.size_bytes) for key, it in catalog.models.items()} == self.models
        assert dict(catalog.instances) == self.instances
