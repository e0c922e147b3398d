"""From a command to the transaction that carries it out. Pure: the same catalog and command, the same transaction.

A transaction compares every key whose change would make it wrong: if its compares hold, it does what one computed
from the newest catalog would do. In particular

- all compare `state/home`: while the state is being moved nothing else is written, nor by one who has not heard;
- who takes or frees a name (founding, joining, renaming, removing) compares and writes `cluster/roster`, where the
  next sequence number is too; so does who changes a node's level. Who counts on members or levels compares it;
- who uses a token compares and writes the token: its last use is used once;
- who changes a node compares its record: nobody brings a removed node back, nor starts as one;
- DropToken compares nothing else: gone is gone. SweepTokens leaves tokens alone that its catalog lacks.

A command that finds its work done is a transaction with compares and no writes: after a lost answer it may be sent
again, and where the compares are tried it is known to be done. Only DropToken, DropModel and DropPlacement then
say NotFound, which is as good.

A command that older programs do not understand is refused while any member's program is older (LEVELS); what repairs,
undoes or takes back is not. Where a node was named that was removed since, the catalog does not show it.
"""

from collections.abc import Callable
from typing import Any, Final

from ollamamax.core.catalog import (
    apply_home,
    apply_joining,
    apply_models,
    apply_nodes,
    apply_placement,
    apply_settings,
    apply_tokens,
    records,
)
from ollamamax.core.catalog import commands as asked
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import Command
from ollamamax.core.catalog.transactions import guarded, name_of, require_level
from ollamamax.core.errors import Conflict, StateUnavailable
from ollamamax.core.types import StateTxn

LEVELS: Final[dict[type[Command], int]] = {
    asked.SetPlacement: 2,
    asked.SetDrain: 2,
    asked.ChangeSettings: 2,
    asked.RollbackSettings: 2,
    asked.BeginMove: 2,
}
"""The level that every member's program must have; others need none."""

_WHILE_MOVING: Final = (asked.BeginMove, asked.FinishMove, asked.UndoMove)

_STEPS: Final[dict[type[Command], Callable[[Catalog, Any], StateTxn]]] = {
    asked.AddNode: apply_joining.add_node,
    asked.RemoveNode: apply_nodes.remove_node,
    asked.RenameNode: apply_nodes.rename,
    asked.SetAddresses: apply_nodes.change_node,
    asked.SetLabels: apply_nodes.change_node,
    asked.SetCordon: apply_nodes.change_node,
    asked.SetInstance: apply_nodes.set_instance,
    asked.AddToken: apply_tokens.add_token,
    asked.DropToken: apply_tokens.drop_token,
    asked.SweepTokens: apply_tokens.sweep_tokens,
    asked.SetModel: apply_models.set_model,
    asked.DropModel: apply_models.drop_model,
    asked.SetPlacement: apply_placement.set_placement,
    asked.DropPlacement: apply_placement.drop_placement,
    asked.SetAssignment: apply_placement.set_assignment,
    asked.TakePlanner: apply_placement.take_planner,
    asked.SetDrain: apply_placement.set_drain,
    asked.EndDrain: apply_placement.end_drain,
    asked.ChangeSettings: apply_settings.change_settings,
    asked.RollbackSettings: apply_settings.rollback_settings,
    asked.BeginMove: apply_home.begin_move,
    asked.FinishMove: apply_home.finish_move,
    asked.UndoMove: apply_home.undo_move,
    asked.SetHosts: apply_home.set_hosts,
}


def apply(catalog: Catalog, command: Command) -> StateTxn:
    """The transaction; without writes if there is nothing to do.

    Raises: BadRequest (a part outside its grammar), TokenRefused, NodeNotFound, NotFound, NodeConflict,
    StateUnavailable (the state is being moved), Conflict (no cluster yet, or another one; a member's program is too
    old; a host of the state would be removed; what the command counts on stands no more).
    """
    if isinstance(command, asked.FoundCluster):
        return guarded(catalog, apply_nodes.found(catalog, command), (records.HOME_KEY,))
    if catalog.meta is None:
        raise Conflict("there is no cluster here yet: found one or join one first")
    if catalog.home.phase == "moving" and not isinstance(command, _WHILE_MOVING):
        mover = name_of(catalog, catalog.home.mover)
        raise StateUnavailable(f"node {mover} is moving the cluster's state to a new home: try again in a moment")
    needed = LEVELS.get(type(command))
    if needed is not None:
        require_level(catalog.nodes.values(), needed)
    guards = (records.HOME_KEY,) if needed is None else (records.HOME_KEY, records.ROSTER_KEY)
    return guarded(catalog, _STEPS[type(command)](catalog, command), guards)
