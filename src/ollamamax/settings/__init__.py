"""Settings: one frozen tree, read once from a file, the environment and flags. `load` is the way in."""

from ollamamax.settings.exposure import check_exposure
from ollamamax.settings.load import Loaded, Source, default_home, load
from ollamamax.settings.peer import Peer, peer_listen
from ollamamax.settings.tree import Engine, Listen, Log, Queue, Routing, Settings, Telemetry

__all__ = [
    "Engine",
    "Listen",
    "Loaded",
    "Log",
    "Peer",
    "Queue",
    "Routing",
    "Settings",
    "Source",
    "Telemetry",
    "check_exposure",
    "default_home",
    "load",
    "peer_listen",
]
