"""What can be done where no node runs: by the node's own code, in this process."""

from collections.abc import Sequence
from pathlib import Path

from ollamamax.core.types import FoundCluster, Joined
from ollamamax.settings import Settings


def join(settings: Settings, token: str, *, name: str, force: bool) -> Joined:
    """Make the node of that home a member; nothing is done if it is one already. name: "" = as it is called.

    Raises: StoreInUse if a node runs on that home, and what joining raises.
    """
    from ollamamax.main import join_offline

    return join_offline(settings, token, name, force)


def discover(settings: Settings, timeout_ms: int) -> Sequence[FoundCluster]:
    """Clusters on the LAN that answer within that time. Raises: PeerError."""
    from ollamamax.main import discover_offline

    return discover_offline(settings, timeout_ms)


def restore_backup(settings: Settings, file: Path) -> int:
    """Make a copy of the state the cluster's, held by that home's node alone. Returns: the generation of its home.

    Raises: StoreInUse if a node runs on that home, Conflict if the copy is another cluster's, StateError, StoreError.
    """
    from ollamamax.main import restore_backup_offline

    return restore_backup_offline(settings, file)


def restore_state(settings: Settings, snapshot: Path | None) -> tuple[Path, Path | None]:
    """Put a snapshot of the cluster's state in the place of its file. The snapshot, and where the former file lies now.

    Raises: StoreInUse if a node runs on that home, Conflict if the state is on another node, StateError, StoreError.
    """
    from ollamamax.main import restore_state_offline

    return restore_state_offline(settings, snapshot)
