"""The state's home in words and a table. Pure: what the admin API said, and the time, to text."""

from collections.abc import Mapping
from typing import Any, Final

from ollamamax.cli.output import harmless, size, span, table

_SECOND_NS: Final = 1_000_000_000
_KINDS: Final = {
    "sqlite": "on one node alone; `ollamamax cluster ha enable` spreads it",
    "etcd": "on etcd, which the cluster runs itself",
    "external": "in an etcd that others run",
}


def home_text(home: Mapping[str, Any], now_ns: int) -> str:
    """Where it is, who holds it, and what is wrong."""
    lines = [f"state: {_KINDS.get(home['kind'], harmless(str(home['kind'])))}"]
    if home["phase"] == "moving":
        lines.append(f"moving: node {harmless(home.get('mover', ''))} copies it to another home")
    if home["kind"] != "sqlite":
        count = home.get("survives", 0)
        lines.append(f"survives: the loss of {count} more node{'' if count == 1 else 's'}")
    if home.get("endpoints"):
        lines.append(f"endpoints: {', '.join(map(harmless, home['endpoints']))}")
    if home.get("last_backup_ns"):
        lines.append(f"last copy here: {span((now_ns - home['last_backup_ns']) / _SECOND_NS)} ago")
    told = "\n".join(lines) + "\n\n" + _hosts(home)
    return told + "".join(f"! {harmless(text)}\n" for text in home.get("trouble", ()))


def _hosts(home: Mapping[str, Any]) -> str:
    """NODE, ROLE, ETCD, DB, LAG."""
    is_own = home["kind"] == "etcd"
    rows = [
        (
            harmless(host["name"]),
            _role(host, home["kind"]),
            harmless(host.get("etcd") or "-"),
            size(host["db_bytes"]) if is_own and host.get("db_bytes") else "-",
            str(host.get("lag", 0)) if host.get("etcd") else "-",
        )
        for host in home.get("hosts", ())
    ]
    return table(("NODE", "ROLE", "ETCD", "DB", "LAG"), rows)


def _role(host: Mapping[str, Any], kind: str) -> str:
    if not host.get("reachable"):
        return "away"
    if kind != "etcd":
        return "holder" if kind == "sqlite" else "host"
    if host.get("trouble"):
        return "in trouble"
    return "leader" if host.get("is_leader") else "learner" if host.get("is_learner") else "voter"
