"""What `ollamamax config` asks and says."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from ollamamax.cli.client import Client, ask_node, connect
from ollamamax.cli.output import span, table
from ollamamax.core.types import NodeSettings, SettingsChange
from ollamamax.settings import load
from ollamamax.settings.knobs import as_text
from ollamamax.settings.shared import shown

PATH = "/admin/v1/config"


def look(node: str, offline: bool, home: str, file: Path | None) -> tuple[NodeSettings, bool]:
    """The settings of a running node, this machine's unless another is named, and True; else, or where it is asked for,
    what a node would use that is started now, and False. Raises: CliError, SettingsError.
    """
    if not (offline or home or file):
        path = f"{PATH}?{urlencode({'node': node})}" if node else PATH

        def ask(client: Client) -> NodeSettings:
            return msgspec.convert(client.get(path), NodeSettings)

        if node:
            with connect() as client:
                return ask(client), True
        running = ask_node(ask)
        if running is not None:
            return running, True
    return NodeSettings(settings=shown(load({"home": home or None}, os.environ, config=file).sources)), False


def change(method: str, path: str, body: dict[str, Any] | None = None) -> SettingsChange:
    """Have the cluster's settings changed. Raises: CliError."""
    with connect() as client:
        send = {"PUT": client.put, "POST": client.post, "DELETE": client.delete}[method]
        answer = send(PATH + path, body or {})
    return msgspec.convert(answer, SettingsChange)


def key_path(key: str, node: str = "") -> str:
    """Of one setting, below PATH."""
    return f"/{quote(key, safe='')}" + (f"?{urlencode({'node': node})}" if node else "")


def value_text(value: Any) -> str:
    """As people write it."""
    return as_text(tuple(value) if isinstance(value, list) else value)


def settings_text(settings: NodeSettings) -> str:
    """A table of all."""
    rows = []
    for key, row in settings.settings.items():
        notes = [row.source]
        if row.cluster_value is not None:
            notes.append(f"(the cluster says {row.cluster_value or 'nothing'})")
        if row.next_value is not None:
            notes.append(f"(from the next start on: {value_text(row.next_value)}, by {row.next_source})")
        rows.append((key, value_text(row.value), " ".join(notes)))
    return table(("SETTING", "VALUE", "SOURCE"), rows)


def whose_text(settings: NodeSettings, is_running: bool) -> str:
    """Whose settings those are, and what of the cluster's is left out there."""
    name = f"node {settings.node}" if settings.node else "the node"
    if not is_running:
        return "As `ollamamax serve` would use them, started now; what a cluster sets at run time is not among them.\n"
    version = f"; the cluster's are version {settings.version}" if settings.version else ""
    left_out = "".join(f"Left out there: {problem}\n" for problem in settings.problems)
    return f"Of {name}, which runs{version}.\n{left_out}"


def change_text(change: SettingsChange, node: str) -> str:
    """What came of a change. node: the one that it was for, "" = all."""
    lines = [f"version {change.version}: {change.change}" if change.changed else "it is so already"]
    keeping = {kept.node for kept in change.kept}
    total = len({*change.applied, *change.away, *change.late, *keeping})
    if not node:
        lines.append(f"applied on {len(change.applied)} of {total} node{'' if total == 1 else 's'}")
    elif change.applied:
        lines.append(f"applied on {change.applied[0]}")
    lines += [
        f"{kept.node} keeps {kept.key} = {value_text(kept.value)} ({kept.source}), which wins there"
        for kept in change.kept
    ]
    if change.away:
        lines.append(f"away: {', '.join(change.away)}, taken over there on return")
    if change.late:
        lines.append(f"not heard from yet: {', '.join(change.late)}; see `ollamamax config show --node NAME`")
    lines += [f"{key} takes effect when a node is started the next time" for key in change.next_start]
    return "".join(f"{line}\n" for line in lines)


def history_text(versions: Iterable[dict[str, Any]], now_ns: int) -> str:
    """A table, oldest first."""
    rows = [
        (
            str(version["version"]),
            f"{span(max(0.0, (now_ns - version['changed_ns']) / 1e9))} ago",
            version["by"],
            version["change"],
        )
        for version in versions
    ]
    return table(("VERSION", "WHEN", "BY", "CHANGE"), rows)


def difference_text(answer: dict[str, Any]) -> str:
    """A table of what differs."""
    if not answer["changes"]:
        return f"versions {answer['before']} and {answer['after']} are the same\n"
    rows = [
        (row["key"], row["node"] or "all", _or_unset(row["before"]), _or_unset(row["after"]))
        for row in answer["changes"]
    ]
    return table(("SETTING", "NODES", f"VERSION {answer['before']}", f"VERSION {answer['after']}"), rows)


def _or_unset(text: str | None) -> str:
    return "unset" if text is None else text or "(empty)"
