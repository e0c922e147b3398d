"""The cluster's state from a copy, while the node that is to hold it does not run."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from ollamamax.adapters.identity.node_identity import FileIdentityStore
from ollamamax.adapters.state.snapshot_file import StateSnapshotFile
from ollamamax.adapters.state.sqlite_homes import SqliteHomes, newest_first, state_file
from ollamamax.adapters.state.sqlite_snapshots import restore
from ollamamax.adapters.storage.locks import DirectoryLock
from ollamamax.adapters.system.clock import SystemClock
from ollamamax.core.catalog import records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.records import HOME_KEY, META_KEY
from ollamamax.core.errors import Conflict, NotFound, StateError
from ollamamax.core.types import StateEntry, StateHome, StateRange
from ollamamax.main.papers import cluster_home, known_state, snapshot_file
from ollamamax.ports import Identity
from ollamamax.services.state_copy import copy, lasting
from ollamamax.settings import Settings

_STEP: Final = 1_000_000
"""More changes than can have been made since any copy that is kept."""


def restore_state_offline(settings: Settings, snapshot: Path | None) -> tuple[Path, Path | None]:
    """Put a snapshot in the place of the state's file, while the node does not run: see sqlite_snapshots.restore().

    Raises: StoreInUse, Conflict if this node has never held the state, StateError, StoreError.
    """
    me = FileIdentityStore(cluster_home(settings)).load()
    held = newest_first(cluster_home(settings), me.cluster_id) if me is not None else []
    if me is None or (not held and me.holder_id != me.node_id):
        raise Conflict(
            f"the node of {settings.home} does not hold the state of a cluster; run this on the node that does"
        )
    return restore(held[0] if held else state_file(cluster_home(settings), me.cluster_id), snapshot)


def restore_backup_offline(settings: Settings, file: Path) -> int:
    """Make a copy the cluster's state, held by this node alone from its next start on.

    Returns: the generation of its home, which is newer than all that this node knows of.
    Raises: StoreInUse, NotFound, Conflict if the copy is another cluster's, StateError, StoreError.
    """
    with ExitStack() as stack:
        stack.enter_context(DirectoryLock(settings.home, "the home directory"))
        me = FileIdentityStore(cluster_home(settings)).load()
        if me is None:
            raise Conflict(
                f"the node of {settings.home} is in no cluster: a copy is brought back on one of its members"
            )
        return asyncio.run(_restore(settings, me, file))


async def _restore(settings: Settings, me: Identity, file: Path) -> int:
    kept = await StateSnapshotFile(file).load()
    if kept is None:
        raise NotFound(f"there is no file {file}")
    catalog = Catalog.from_range(kept)
    if catalog.meta is None or catalog.meta.cluster_id != me.cluster_id:
        raise Conflict(f"{file} is a copy of another cluster's state")
    if me.node_id not in catalog.nodes:
        raise Conflict(f"node {me.name} is no member in {file}: bring it back on a machine that was one by then")
    own = SqliteHomes(cluster_home(settings), me.cluster_id, me.node_id, SystemClock())
    store, told = await own.find(make=False)
    if store is not None:
        await store.close()
    try:
        known = await known_state(settings, me)
    except StateError:  # what this node remembers is damaged, too
        known = catalog
    homes = (catalog.home, known.home, told)
    generation = 1 + max(max(home.generation, home.target.generation if home.target else 0) for home in homes)
    state = StateRange(kept.revision, tuple(_moved(entry, catalog, me, generation) for entry in lasting(kept)))
    if catalog.told_home is None:
        home = records.encode(StateHome(hosts=(me.node_id,), generation=generation))
        state = StateRange(kept.revision, (*state.entries, StateEntry(HOME_KEY, home, 0, 0)))
    made = await own.begin(generation, max(kept.revision, known.revision) + _STEP)
    try:
        async for _ in copy(state, made):
            continue
        await snapshot_file(settings, me.cluster_id).save(await made.range(""))
    finally:
        await made.close()
    return generation


def _moved(entry: StateEntry, catalog: Catalog, me: Identity, generation: int) -> StateEntry:
    """The same, or what tells where the state lives now."""
    if entry.key == HOME_KEY:
        home = StateHome(hosts=(me.node_id,), generation=generation)
        return StateEntry(entry.key, records.encode(home), entry.created, entry.revision)
    if entry.key == META_KEY and catalog.meta is not None:
        meta = replace(catalog.meta, holder_id=me.node_id)
        return StateEntry(entry.key, records.encode(meta), entry.created, entry.revision)
    return entry
