"""The cluster in words and tables. Pure: what the admin API said, and the time, to text.

Names, versions and texts may come from any member, so that control characters are taken out of all of them.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ollamamax.cli.output import harmless, size, span, table

_BLANKS = re.compile(r"\s+")
_SHORT = ((60.0, 1.0, "s"), (3600.0, 60.0, "m"), (48 * 3600.0, 3600.0, "h"), (float("inf"), 86400.0, "d"))
_HASH_DIGITS = 16
_SECOND_NS = 1_000_000_000


def nodes_table(nodes: Sequence[Mapping[str, Any]]) -> str:
    """NAME, STATE, ROLE, MODELS, SLOTS, MEMORY, VERSION, AGE: how old is what the node last told of itself."""
    rows = [
        (
            _cell(node["name"]) + (" (this)" if node.get("is_this") else ""),
            _cell(node["state"]),
            _role(node),
            _models(node),
            f"{node.get('slots_used', 0)}/{node.get('slots', 0)}",
            _memory(node),
            _cell(node.get("version") or "-"),
            _age(node),
        )
        for node in nodes
    ]
    return table(("NAME", "STATE", "ROLE", "MODELS", "SLOTS", "MEMORY", "VERSION", "AGE"), rows)


def node_text(node: Mapping[str, Any], now_ns: int) -> str:
    """All of one node, a line per fact."""
    rates = [
        f"{node[key]:.0f} tokens/s {what}"
        for key, what in (("prefill_tps", "reading"), ("decode_tps", "writing"))
        if node.get(key)
    ]
    facts = {
        "name": node["name"] + (" (this node)" if node.get("is_this") else ""),
        "id": node["node_id"],
        "state": node["state"],
        "role": _role(node),
        "version": node.get("version") or "-",
        "speaks": f"protocol {node.get('protocol') or '?'}, level {node.get('level', 1)} of the cluster's state",
        "addresses": ", ".join(node.get("addresses", ())) or "-",
        "labels": _pairs(node.get("labels", {})),
        "joined": f"{span((now_ns - node['joined_ns']) / _SECOND_NS)} ago",
        "last told": "-" if node.get("facts_age_ms") is None else f"{_age(node)} ago",
        "models": str(node.get("models", 0)),
        "loaded": ", ".join(node.get("loaded", ())) or "-",
        "slots": f"{node.get('slots_used', 0)} of {node.get('slots', 0)} in use, {node.get('queued', 0)} waiting",
        "memory": _memory(node),
        "GPUs": str(node.get("gpu_count", 0)),
        "speed": ", ".join(rates) or "not measured yet",
    }
    return _lines(facts)


def status_text(status: Mapping[str, Any], now_ns: int) -> str:
    """The cluster as a whole, a line per fact, and what does not work."""
    holder = str(status["holder"])
    if not status["holder_reachable"]:
        holder += f", out of reach for {_short(status.get('holder_lost_ms', 0) / 1000)}"
    left_s = (status["certificate_expires_ns"] - now_ns) / _SECOND_NS
    versions, waits = status.get("versions", {}), status.get("waits", ())
    facts = {
        "cluster": f"{status['name']} ({status['cluster_id']})",
        "this node": f"{status['this']}, {status.get('role') or 'no role yet'}",
        "nodes": _counts(status.get("nodes", {})),
        "holder": holder,
        "revision": str(status["revision"]),
        "versions": ", ".join(f"{one} ({count})" for one, count in versions.items()) or "-",
        **({"upgrade": "; ".join(waits) or "under way, nothing waits for it"} if len(versions) > 1 or waits else {}),
        "requests": f"{status.get('in_flight', 0)} of {status.get('slots', 0)} slots in use, "
        f"{status.get('queued', 0)} waiting",
        "certificate": f"ends in {span(left_s)}" if left_s > 0 else "has expired",
    }
    degraded = "".join(f"! {_cell(text)}\n" for text in status.get("degraded", ()))
    return _lines(facts) + degraded


def joined_text(joined: Mapping[str, Any]) -> str:
    """What came of joining."""
    node, cluster = _cell(joined["node"]), _cell(joined["cluster"])
    if joined.get("was_member"):
        return f"'{node}' is a member of the cluster '{cluster}' already\n"
    return f"joined the cluster '{cluster}' as '{node}'\n"


def tokens_table(tokens: Sequence[Mapping[str, Any]], now_ns: int) -> str:
    """ID, USES LEFT, EXPIRES."""
    rows = []
    for token in tokens:
        left_s = (token["expires_ns"] - now_ns) / _SECOND_NS
        expires = f"in {span(left_s)}" if left_s > 0 else f"{span(-left_s)} ago"
        rows.append((_cell(token["token_id"]), str(token["uses_left"]) if left_s > 0 else "0", expires))
    return table(("ID", "USES LEFT", "EXPIRES"), rows)


def clusters_table(clusters: Sequence[Mapping[str, Any]]) -> str:
    """CLUSTER, ID, KEY, ADDRESSES."""
    rows = [
        (
            _cell(found.get("name") or "-") + (" (this)" if found.get("is_ours") else ""),
            _cell(found.get("cluster_id") or "-"),
            _cell(found.get("key_hash", ""))[:_HASH_DIGITS] or "-",
            _cell(", ".join(found.get("addresses", ()))),
        )
        for found in clusters
    ]
    return table(("CLUSTER", "ID", "KEY", "ADDRESSES"), rows)


def event_line(event: Mapping[str, Any]) -> str:
    """One event, in this machine's time zone."""
    moment = datetime.fromtimestamp(event["at_ns"] / _SECOND_NS).astimezone()
    words = (f"{moment:%Y-%m-%d %H:%M:%S}", event["kind"], event.get("node", ""), event.get("text", ""))
    return "  ".join(_cell(word) for word in words if word) + "\n"


def _cell(text: object) -> str:
    """In one line, and harmless."""
    return _BLANKS.sub(" ", harmless(str(text))).strip()


def _lines(facts: Mapping[str, str]) -> str:
    width = max(len(name) for name in facts) + 4
    return "".join(f"{name:<{width}}{_cell(value)}\n" for name, value in facts.items())


def _role(node: Mapping[str, Any]) -> str:
    parts = [_cell(node["role"])] if node.get("role") else []
    return ", ".join(parts + (["holder"] if node.get("is_holder") else [])) or "-"


def _models(node: Mapping[str, Any]) -> str:
    loaded = len(node.get("loaded", ()))
    return f"{node.get('models', 0)}" + (f" ({loaded} loaded)" if loaded else "")


def _memory(node: Mapping[str, Any]) -> str:
    total = node.get("total_memory_bytes", 0)
    return f"{size(node.get('free_memory_bytes', 0))} of {size(total)} free" if total else "-"


def _age(node: Mapping[str, Any]) -> str:
    age_ms = node.get("facts_age_ms")
    return "-" if age_ms is None else _short(age_ms / 1000)


def _short(seconds: float) -> str:
    """0s, 59s, 5m, 47h, 3d."""
    for limit_s, unit_s, unit in _SHORT:
        if seconds < limit_s:
            return f"{int(seconds // unit_s)}{unit}"
    raise AssertionError("the last unit has no limit")


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "-"


def _counts(counts: Mapping[str, int]) -> str:
    """3 ready, 1 gone."""
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "-"
