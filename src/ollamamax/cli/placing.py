"""Placements and drains in words. Pure, save for the waiting: what the admin API said, to text.

Names and reasons may come from any member, so that control characters are taken out of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from ollamamax.cli.client import Client
from ollamamax.cli.errors import CliError
from ollamamax.cli.output import harmless, size, table
from ollamamax.settings.values import seconds_or_duration_ms

_LOOK_S: Final = 0.5


def placement_path(model: str) -> str:
    """Of the admin API."""
    return f"/admin/v1/placements/{quote(model, safe='/:')}"


def labels_of(words: Sequence[str]) -> dict[str, str]:
    """key=value each. Raises: CliError."""
    labels: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise CliError(f"{word!r} is no label; write --on key=value", exit_code=2)
        if key in labels:
            raise CliError(f"the label {key!r} is given twice", exit_code=2)
        labels[key] = value
    return labels


def milliseconds(text: str, option: str) -> int:
    """A length of time as people write it: 90s, 10m. Raises: CliError."""
    try:
        return seconds_or_duration_ms(text)
    except ValueError as error:
        raise CliError(f"{option}: {error}", exit_code=2) from error


def placements_table(placements: Sequence[Mapping[str, Any]]) -> str:
    """MODEL, DESIRED, READY, MISSING, WHERE, WHY."""
    rows = [
        (
            harmless(one["name"]),
            str(one["replicas"]) + (f"+{one['extra']}" if one["extra"] else ""),
            str(one["ready"]),
            str(one["missing"]),
            _where(one["nodes"]),
            _reason(one),
        )
        for one in placements
    ]
    return table(("MODEL", "DESIRED", "READY", "MISSING", "WHERE", "WHY"), rows)


def placement_text(one: Mapping[str, Any]) -> str:
    """One model that was placed: a line, and what is wrong with it."""
    lines = [f"{one['name']}: {_ready(one)}, {_where(one['nodes'])}"]
    return "".join(f"{harmless(line)}\n" for line in lines + _troubles(one))


def plan_text(plan: Mapping[str, Any]) -> str:
    """What would be decided."""
    lines = [*str(plan["text"]).splitlines(), *(f"also moves  {move}" for move in plan["moves"])]
    return "".join(f"{harmless(line)}\n" for line in lines)


def is_settled(one: Mapping[str, Any]) -> bool:
    """All replicas that were decided since it was asked for, are ready, and all are decided that can be."""
    wanted = sum(node["replicas"] for node in one["nodes"])
    return bool(one["decided_ns"] >= one["changed_ns"] and one["ready"] >= wanted)


def wait_until_ready(client: Client, model: str, timeout_s: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Until the replicas are ready; the placement then. Raises: CliError in the end if some have no place."""
    deadline = time.monotonic() + timeout_s
    while True:
        one: dict[str, Any] = client.get(placement_path(model))
        say(placement_text(one).rstrip())
        if is_settled(one):
            if one["missing"]:
                raise CliError(f"{one['missing']} of the replicas of {model} have no place: {_reason(one)}")
            return one
        if time.monotonic() > deadline:
            raise CliError(f"the replicas of {model} are not ready after {timeout_s:g} s; they still become so")
        time.sleep(_LOOK_S)


def wait_until_drained(client: Client, path: str, limit_s: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Until the node is empty; the node then. limit_s: 0 = none. Raises: CliError when the time is over."""
    deadline = time.monotonic() + limit_s
    while True:
        node: dict[str, Any] = client.get(path)
        say(drain_text(node))
        if node["state"] not in ("draining", "suspect"):
            return node
        if limit_s and time.monotonic() > deadline:
            raise CliError(f"'{node['name']}' is not empty after {limit_s:g} s: {drain_text(node)}")
        time.sleep(_LOOK_S)


def drain_text(node: Mapping[str, Any]) -> str:
    """How far it is."""
    left = [f"{node['replicas']} replicas to move", f"{node['slots_used']} answers under way"]
    if node.get("queued"):
        left.append(f"{node['queued']} requests waiting there")
    is_over = node["state"] != "draining"
    return harmless(f"{node['name']} is {node['state']}" + ("" if is_over else f": {', '.join(left)}"))


def _where(nodes: Sequence[Mapping[str, Any]]) -> str:
    words = []
    for one in nodes:
        count = f" x{one['replicas']}" if one["replicas"] > 1 else ""
        words.append(f"{one['node']}{count}" + ("" if one["ready"] >= one["replicas"] else " (loading)"))
    return harmless(", ".join(words)) or "-"


def _ready(one: Mapping[str, Any]) -> str:
    wanted = one["replicas"] + one["extra"]
    return f"{one['ready']} of {wanted} replicas ready"


def _troubles(one: Mapping[str, Any]) -> list[str]:
    lines = [f"!  {line}" for line in one["why"]] if one["missing"] else []
    if one["is_guess"]:
        lines.append(f"!  a replica is thought to need {size(one['need_bytes'])}, by the size of its files")
    return lines


def _reason(one: Mapping[str, Any]) -> str:
    """The first line that says why."""
    return harmless(next(iter(one["why"]), "-" if one["decided_ns"] else "not decided yet"))
