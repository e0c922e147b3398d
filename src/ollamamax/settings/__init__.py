"""Settings: one frozen tree, read once from a file, the environment and flags. `load` is the way in."""

from ollamamax.settings.load import Loaded, Source, default_home, load
from ollamamax.settings.tree import Engine, Listen, Log, Queue, Routing, Settings, Telemetry

__all__ = [
    "Engine",
    "Listen",
    "Loaded",
    "Log",
    "Queue",
    "Routing",
    "Settings",
    "Source",
    "Telemetry",
    "default_home",
    "load",
]
