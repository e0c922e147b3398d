"""What can be done, and which role may do what."""

from enum import StrEnum
from typing import Final


class Action(StrEnum):
    """infer: chat, generate, embed.  read: lists, descriptions, metrics.  manage_models: create, copy, delete, blobs.

    manage_engines: attach and detach engines.  manage_cluster: nodes, join tokens, joining, shared settings.
    """

    INFER = "infer"
    READ = "read"
    MANAGE_MODELS = "manage_models"
    MANAGE_ENGINES = "manage_engines"
    MANAGE_CLUSTER = "manage_cluster"


MUTATING: Final = frozenset({Action.MANAGE_MODELS, Action.MANAGE_ENGINES, Action.MANAGE_CLUSTER})
"""Actions that change something; each decision about one is audited."""

ROLES: Final[dict[str, frozenset[Action]]] = {
    "admin": frozenset(Action),
    "user": frozenset({Action.READ, Action.INFER}),
    "reader": frozenset({Action.READ}),
}
