"""The composition root: the only package that names adapters. Builds a node, runs it, takes it down in order."""

from ollamamax.main.papers import discover_offline, join_offline
from ollamamax.main.restoring import restore_backup_offline, restore_state_offline
from ollamamax.main.run import run_node

__all__ = ["discover_offline", "join_offline", "restore_backup_offline", "restore_state_offline", "run_node"]
