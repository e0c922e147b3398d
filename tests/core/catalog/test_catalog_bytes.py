"""Records and commands as bytes: the same bytes always, all of them read again, and any other bytes refused."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest
from catalog_world import assigning, founded, founder, founding, id_of, joining, key_of, meta, placing, token
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from ollamamax.core.catalog import commands, records
from ollamamax.core.catalog.commands import (
    BeginMove,
    ChangeSettings,
    Command,
    DropModel,
    DropPlacement,
    DropToken,
    EndDrain,
    FinishMove,
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
    SweepTokens,
    TakePlanner,
    UndoMove,
)
from ollamamax.core.catalog.records import Instance, Kind, Planner, Record, Roster
from ollamamax.core.errors import BadRequest, StateCorrupt, StateTooNew
from ollamamax.core.types import Assignment, ClusterSettings, DeletedModel, Drain, ModelEntry, RevokedNode, StateHome

MODEL = ModelEntry(name="Tiny:latest", digest="d" * 64, size_bytes=5, changed_ns=1)
ASSIGNMENT = Assignment(name="Tiny:latest", nodes={id_of(2): 1, id_of(1): 2}, decided_ns=1, why=("ada has it",))
DRAIN = Drain(node_id=id_of(1), since_ns=5, deadline_ns=9)
SETTINGS = ClusterSettings(
    version=7, values={"b.c": "1", "a": "x"}, node_values={id_of(2): {"b": ""}, id_of(1): {"c": "2"}}, by="ada"
)
HOME = StateHome(kind="external", hosts=(id_of(1), id_of(2)), generation=3, endpoints=("etcd:2379",))
RECORDS: list[tuple[str, Record]] = [
    ("cluster/meta", meta()),
    ("cluster/roster", Roster(7)),
    (f"nodes/{id_of(1)}", founder(labels={"zone": "b", "gpu": "a100", "a/b": ""})),
    (f"revoked/{id_of(2)}", RevokedNode(node_id=id_of(2), name="bob", key_hash=key_of(2), removed_ns=3)),
    (f"tokens/{id_of(1)}", token().record),
    ("models/tiny:latest", MODEL),
    (f"instances/{id_of(1)}", Instance("i1")),
    ("placements/tiny:latest", placing(2, (id_of(1),), labels={"zone": "b", "gpu": "a100"}).record),
    ("assignments/tiny:latest", ASSIGNMENT),
    (f"drains/{id_of(1)}", DRAIN),
    ("deleted/tiny:latest", DeletedModel(name="Tiny:latest", digests=("d" * 64,), deleted_ns=5, next_sequence=3)),
    ("settings/head", SETTINGS),
    ("settings/v/0000000007", SETTINGS),
    ("planner", Planner(id_of(1))),
    ("state/home", structs.replace(HOME, phase="moving", mover=id_of(1), target=HOME)),
]
COMMANDS: list[Command] = [
    founding(),
    joining(2, addresses=("ada:1", "bob:2")),
    RemoveNode(id_of(1), 5),
    RenameNode(id_of(1), "eve"),
    SetAddresses(id_of(1), ("ada:1",), "2.0"),
    SetLabels(id_of(1), {"zone": "b", "gpu": "a100", "a/b": "", "k9": "x"}, ("old", "older")),
    SetCordon(id_of(1), True),
    SetInstance(id_of(1), "i2", 9, expected="i1"),
    token(),
    DropToken(id_of(1)),
    SweepTokens(7),
    SetModel(MODEL, replaces_digest=""),
    SetModel(MODEL),
    DropModel("tiny:latest"),
    DropModel("tiny:latest", 7),
    placing(2, labels={"zone": "b", "gpu": "a100", "a/b": ""}),
    DropPlacement("tiny:latest"),
    SetAssignment(ASSIGNMENT, id_of(1), 4, 0),
    TakePlanner(id_of(1), 3),
    SetDrain(DRAIN),
    EndDrain(id_of(1)),
    ChangeSettings(1, {"b.c": "1", "a": "x", "z": "", "k9": "x"}, ("old",), id_of(1), "ada", 3),
    RollbackSettings(3, 1, "ada", 4),
    BeginMove(HOME, id_of(1)),
    FinishMove(HOME),
    UndoMove(HOME),
    SetHosts((id_of(1),), ("etcd:2379",), (id_of(2),)),
]
PREFIXED = st.sampled_from([key for key, _ in RECORDS])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def all_bytes() -> bytes:
    """Everything that the two lists become."""
    encoded = [records.encode(record) for _, record in RECORDS] + [commands.encode(command) for command in COMMANDS]
    return b"\n".join([*encoded, *transactions()])


def transactions() -> Iterator[bytes]:
    """What some commands become that are about more than one node, label or setting."""
    world = founded(token(1, 9), joining(2), joining(3, "eve"), TakePlanner(id_of(1), 3))
    everyone = (id_of(3), id_of(1), id_of(2))
    yield msgspec.json.encode(world.run(placing(3, everyone, labels={"zone": "b", "gpu": "a100", "a/b": ""})))
    for command in (
        assigning(world.catalog, dict.fromkeys(everyone, 1)),
        ChangeSettings(1, {"b.c": "1", "a": "x", "z": "", "k9": "x"}, ("old",), id_of(2)),
        BeginMove(StateHome(kind="etcd", hosts=everyone), id_of(1)),
    ):
        yield msgspec.json.encode(world.run(command))


def test_bytes_do_not_depend_on_the_run() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    program = "import sys, test_catalog_bytes as t; sys.stdout.buffer.write(t.all_bytes())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=here,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {all_bytes()}


def test_labels_in_another_order_are_the_same_bytes() -> None:
    one = SetLabels(id_of(1), {"a": "1", "b": "2"})
    other = SetLabels(id_of(1), {"b": "2", "a": "1"})
    assert commands.encode(one) == commands.encode(other)


def test_the_bytes_of_a_record_are_as_they_were() -> None:
    """What is on disk has to be read by later programs: these bytes change with RECORD_VERSION only."""
    assert records.encode(meta()) == (
        b'{"cluster_id":"cccccccccccccccc","created_ns":1,"format":1,"holder_id":"0000000000000001","name":"home","v":1}'
    )
    assert commands.encode(SetCordon(id_of(1), True)) == (
        b'{"cordoned":true,"node_id":"0000000000000001","type":"SetCordon","v":1}'
    )
    assert records.encode(HOME) == (
        b'{"endpoints":["etcd:2379"],"generation":3,"hosts":["0000000000000001","0000000000000002"],"kind":"external",'
        b'"mover":"","phase":"steady","target":null,"v":1}'
    )


def test_a_node_of_an_older_program_is_of_the_first_level() -> None:
    """What an older program writes lacks the level, and comes back."""
    old = msgspec.json.decode(records.encode(founder()))
    del old["level"]
    assert records.decode(f"nodes/{id_of(1)}", msgspec.json.encode(old)) == founder(level=1)


@pytest.mark.parametrize(("key", "record"), RECORDS)
def test_a_record_comes_back(key: str, record: Record) -> None:
    assert records.decode(key, records.encode(record)) == record


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_command_comes_back(command: Command) -> None:
    assert commands.decode(commands.encode(command)) == command


def test_all_kinds_are_in_the_lists() -> None:
    assert {records.split(key)[0] for key, _ in RECORDS} == set(Kind)  # type: ignore[index]
    assert {type(command) for command in COMMANDS} == set(Command.__args__)  # type: ignore[attr-defined]


def test_keys_lead_to_kinds() -> None:
    assert records.split("nodes/x/y") == (Kind.NODE, "x/y")
    assert records.split("models/a/b:c") == (Kind.MODEL, "a/b:c")
    assert records.split("settings/v/0000000012") == (Kind.SETTINGS_VERSION, "0000000012")
    assert records.split("planner") == (Kind.PLANNER, "")
    for foreign in (
        *("", "nodes", "cluster/", "cluster/other", "cluster/meta/x", "quotas/x", "/nodes/x", "planner/", "planners"),
        *("settings/", "settings/v/", "settings/v/1", "settings/v/000000000x", "settings/head/1"),
        *("settings/v/00000000010", "0000000012"),
    ):
        assert records.split(foreign) is None
    assert records.node_key("x") == "nodes/x"
    assert records.revoked_key("x") == "revoked/x"
    assert records.token_key("x") == "tokens/x"
    assert records.instance_key("x") == "instances/x"
    assert records.model_key("Tiny:Latest") == "models/tiny:latest"
    assert records.placement_key("Tiny:Latest") == "placements/tiny:latest"
    assert records.assignment_key("Tiny:Latest") == "assignments/tiny:latest"
    assert records.drain_key("x") == "drains/x"
    assert records.settings_key(12) == "settings/v/0000000012"


@pytest.mark.parametrize(("key", "record"), RECORDS)
def test_a_newer_record_says_what_to_do(key: str, record: Record) -> None:
    data = msgspec.json.encode({"v": records.RECORD_VERSION + 1, "unheard": "of"})
    with pytest.raises(StateTooNew, match=r"the record '.*' was written by a newer .*: upgrade this node"):
        records.decode(key, data)


def test_a_newer_state_says_what_to_do() -> None:
    with pytest.raises(StateTooNew, match=r"has format 2, this program knows up to 1: upgrade this node"):
        records.decode("cluster/meta", records.encode(meta(format=2)))


def test_a_newer_home_says_what_to_do() -> None:
    with pytest.raises(StateTooNew, match=r"lives in 'cloud', which this program does not know: upgrade this node"):
        records.decode("state/home", records.encode(structs.replace(HOME, kind="cloud")))


def test_a_newer_command_says_what_to_do() -> None:
    data = msgspec.json.encode({"v": commands.COMMAND_VERSION + 1, "type": "Unheard"})
    with pytest.raises(StateTooNew, match=r"a command was written by a newer .*: upgrade this node"):
        commands.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"{}",
        b'{"v":"1"}',
        b'{"v":0}',
        b'{"v":-1}',
        b'{"v":1}',
        b'{"v":1,"type":"Unheard"}',
        b'{"v":1,"\xff":2}',
        b'{"v":' + b"9" * 5_000 + b"}",
        b'{"v":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=range(12),
)
def test_what_nobody_wrote_is_told_so(data: bytes) -> None:
    for key, _ in RECORDS:
        with pytest.raises(StateCorrupt, match=r"can't be read .*: restore the state from a snapshot") as caught:
            records.decode(key, data)
        assert key in str(caught.value)
    with pytest.raises(BadRequest, match="a command that can't be read"):
        commands.decode(data)


@pytest.mark.parametrize(
    ("key", "record"),
    [
        (f"nodes/{id_of(2)}", founder()),
        ("nodes/short", founder(node_id="short")),
        (f"revoked/{id_of(3)}", RECORDS[3][1]),
        (f"tokens/{id_of(2)}", token().record),
        ("tokens/x", structs.replace(token().record, token_id="x")),
        ("models/other:latest", MODEL),
        ("models/tiny", structs.replace(MODEL, name="tiny")),
        ("instances/x", Instance("i1")),
        ("placements/other:latest", placing().record),
        ("placements/tiny", placing(name="tiny").record),
        ("assignments/other:latest", ASSIGNMENT),
        (f"drains/{id_of(2)}", DRAIN),
        ("drains/x", structs.replace(DRAIN, node_id="x")),
        ("settings/v/0000000008", SETTINGS),
        ("settings/v/0000000000", ClusterSettings()),
        ("settings/head", ClusterSettings()),
        ("state/home", StateHome()),
        ("state/home", structs.replace(HOME, phase="moving")),
        ("state/home", structs.replace(HOME, target=HOME)),
    ],
)
def test_a_record_under_another_key_is_corrupt(key: str, record: Record) -> None:
    with pytest.raises(StateCorrupt, match="can't be read"):
        records.decode(key, records.encode(record))


@given(
    PREFIXED,
    st.binary()
    | JSON.map(msgspec.json.encode)
    | st.dictionaries(
        st.sampled_from(["v", "type", "node_id", "token_id", "name", "labels", "instance", "next_sequence"]),
        JSON | st.just(1),
    ).map(msgspec.json.encode),
)
def test_any_bytes_are_read_or_refused(key: str, data: bytes) -> None:
    with contextlib.suppress(StateCorrupt, StateTooNew):
        record = records.decode(key, data)
        assert records.decode(key, records.encode(record)) == record
    with contextlib.suppress(BadRequest, StateTooNew):
        command = commands.decode(data)
        assert commands.decode(commands.encode(command)) == command


@given(st.sampled_from(RECORDS), st.integers(0, 400), st.integers(0, 255))
def test_a_flipped_byte_is_no_surprise(item: tuple[str, Record], at: int, byte: int) -> None:
    key, record = item
    data = bytearray(records.encode(record))
    data[at % len(data)] = byte
    with contextlib.suppress(StateCorrupt, StateTooNew):
        assert type(records.decode(key, bytes(data))) is type(record)
