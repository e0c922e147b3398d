"""Where the state lives: moved in three steps, so that no two homes ever take writes.

    steady --BeginMove--> moving --FinishMove--> steady, in the new home
                            |
                            +------UndoMove----> steady, where it was

While it is moving the state takes nothing but the end of the move: who copies it misses nothing. FinishMove is written
in the new home first; from there on the move must not be undone, for which its mover stands. Each move has a
generation of its own, so that a belated end of one never ends another.
"""

from typing import Final

from msgspec import structs

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import BeginMove, FinishMove, SetHosts, UndoMove
from ollamamax.core.catalog.records import HOME_LEVEL
from ollamamax.core.catalog.transactions import changes, member, name_of, put, require_level, txn
from ollamamax.core.errors import BadRequest, Conflict
from ollamamax.core.types import StateHome, StateTxn

_MOST_HOSTS: Final = {"sqlite": 1, "etcd": grammar.MAX_VOTERS, "external": grammar.MAX_HOSTS}


def begin_move(catalog: Catalog, command: BeginMove) -> StateTxn:
    """Raises: BadRequest, NodeNotFound, Conflict if it is moved already, or lives there."""
    home = catalog.home
    member(catalog, command.mover)
    target = _checked(
        catalog,
        StateHome(
            kind=command.target.kind,
            hosts=command.target.hosts,
            generation=home.generation + 1,
            endpoints=command.target.endpoints,
        ),
    )
    if home.phase == "moving":
        if (home.mover, home.target) == (command.mover, target):
            return txn(catalog, (records.HOME_KEY,))
        raise Conflict(
            f"node {name_of(catalog, home.mover)} is moving the cluster's state already: let it finish, or undo that "
            "first (`ollamamax cluster ha status` tells)"
        )
    if structs.replace(target, generation=home.generation) == home:
        raise Conflict("the cluster's state lives there already")
    moving = structs.replace(home, phase="moving", mover=command.mover, target=target)
    return txn(catalog, (records.HOME_KEY, records.META_KEY), put(records.HOME_KEY, moving))


def finish_move(catalog: Catalog, command: FinishMove) -> StateTxn:
    """Raises: Conflict if that move is not under way."""
    home = catalog.home
    if command.home == home:
        return txn(catalog, (records.HOME_KEY,))
    if command.home != home.target:
        raise Conflict("that move of the cluster's state is not under way (any more): it was undone, or never begun")
    assert catalog.meta is not None, "there is a cluster"
    # Programs that know of no homes look for the state with the holder.
    holder_id = command.home.hosts[0] if command.home.kind == "sqlite" else catalog.meta.holder_id
    meta = structs.replace(catalog.meta, holder_id=holder_id)
    return txn(
        catalog,
        (records.HOME_KEY, records.META_KEY),
        put(records.HOME_KEY, command.home),
        *changes(records.META_KEY, catalog.meta, meta),
    )


def undo_move(catalog: Catalog, command: UndoMove) -> StateTxn:
    """Raises: Conflict if that move is finished."""
    home = catalog.home
    if command.target == home:
        raise Conflict("that move of the cluster's state is finished: move it back instead")
    if command.target != home.target:
        return txn(catalog, (records.HOME_KEY,))
    stays = structs.replace(home, phase="steady", generation=command.target.generation, mover="", target=None)
    return txn(catalog, (records.HOME_KEY,), put(records.HOME_KEY, stays))


def set_hosts(catalog: Catalog, command: SetHosts) -> StateTxn:
    """Raises: BadRequest, NodeNotFound, Conflict if one node alone holds the state, or others than expected do."""
    home = catalog.home
    if home.kind == "sqlite":
        raise Conflict("the cluster's state lives with one node alone: `ollamamax cluster ha enable` spreads it")
    endpoints = home.endpoints if command.endpoints is None else command.endpoints
    after = _checked(catalog, structs.replace(home, hosts=command.hosts, endpoints=endpoints))
    if command.expected is not None and after != home and tuple(sorted(set(command.expected))) != home.hosts:
        raise Conflict("others hold the cluster's state by now than were expected: look at them and try again")
    read = (records.HOME_KEY, records.ROSTER_KEY)
    return txn(catalog, read, *changes(records.HOME_KEY, home, after))


def _checked(catalog: Catalog, home: StateHome) -> StateHome:
    """The record with each host once, sorted, and endpoints in their one spelling.

    Raises: BadRequest, NodeNotFound; Conflict if a host's program is too old.
    """
    most = _MOST_HOSTS.get(home.kind)
    if most is None:
        raise BadRequest(f"{grammar.shown(home.kind)} is no home of the state: {', '.join(records.HOME_KINDS)}")
    hosts = tuple(sorted(set(home.hosts)))
    if not 1 <= len(hosts) <= most:
        raise BadRequest(f"a state in {home.kind} has 1 to {most} hosts, not {len(hosts)}")
    require_level([member(catalog, host) for host in hosts], HOME_LEVEL)
    endpoints = tuple(dict.fromkeys(grammar.peer_address(endpoint) for endpoint in home.endpoints))
    if (home.kind == "external") != bool(endpoints) or len(endpoints) > grammar.MAX_ENDPOINTS:
        raise BadRequest(
            f"a state in {home.kind} has {f'1 to {grammar.MAX_ENDPOINTS}' if home.kind == 'external' else 'no'} "
            f"endpoints, not {len(endpoints)}"
        )
    return structs.replace(home, hosts=hosts, endpoints=endpoints)
