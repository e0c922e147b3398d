"""Settings that the cluster shares: checked before they are written, and laid below what a machine says itself.

A value that this program does not understand, because a newer one wrote it, is left out and told of; the start of a
node never fails by it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ollamamax.core.errors import SettingsError
from ollamamax.core.types import ClusterSettings, SettingView
from ollamamax.settings.knobs import HIDDEN, as_text
from ollamamax.settings.load import Loaded, Source, checked_value, unknown_key
from ollamamax.settings.tree import Settings, knobs

DEFAULT: Final = "default"


def check(key: str, text: str | None) -> None:
    """Whether the cluster may set that. text: None = it is only to be unset.

    Raises: SettingsError for an unknown key, one that is each node's own, or a bad value; it names what is allowed.
    """
    known = knobs().get(key)
    if known is None:
        raise SettingsError(unknown_key("key", key, "config set", sorted(shareable())))
    if known.applies == "local":
        raise SettingsError(
            f"{key} is each node's own: set it there, by the file, {known.variable} or "
            f"{known.flag or f'--set {key}'} (docs/settings.md says which settings the cluster can share)"
        )
    if text is not None:
        checked_value(key, text, "config set")


def shareable() -> Mapping[str, str]:
    """What the cluster may set: key -> "live" or "restart"."""
    return {key: knob.applies for key, knob in knobs().items() if knob.applies != "local"}


def overlaid(own: Loaded, shared: ClusterSettings, node_id: str) -> tuple[Loaded, tuple[str, ...]]:
    """A node's settings with the cluster's below its own, and what could not be understood, for the log."""
    sources = dict(own.sources)
    problems: list[str] = []
    for key, text, origin in _given(shared, node_id):
        if key in own.sources and own.sources[key].origin != DEFAULT:
            continue
        try:
            check(key, text)
            sources[key] = Source(checked_value(key, text, origin), origin)
        except SettingsError as error:
            problems.append(str(error))
    settings = Settings.of({key: source.value for key, source in sources.items()})
    return Loaded(settings, MappingProxyType(sources)), tuple(problems)


def differences(before: Loaded, after: Loaded) -> dict[str, str]:
    """What is another one now: key -> how it applies ("live", "restart")."""
    known = knobs()
    return {
        key: known[key].applies for key, source in after.sources.items() if source.value != before.sources[key].value
    }


def shown(sources: Mapping[str, Source]) -> dict[str, SettingView]:
    """Each setting for people, by key; of a secret only that there is one."""
    known = knobs()
    return {
        key: SettingView(value=plain(key, source.value), source=source.origin, applies=known[key].applies)
        for key, source in sources.items()
    }


def plain(key: str, value: Any) -> Any:
    """A value in a form that JSON has; of a secret only that there is one."""
    if knobs()[key].is_secret:
        return HIDDEN if as_text(value) else ""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _given(shared: ClusterSettings, node_id: str) -> Iterator[tuple[str, str, str]]:
    """(key, text, origin), the weaker first."""
    version = f"version {shared.version}"
    for key, text in shared.values.items():
        yield key, text, f"cluster, {version}"
    for key, text in shared.node_values.get(node_id, {}).items():
        yield key, text, f"cluster for this node, {version}"
