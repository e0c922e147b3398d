"""The state's home in figures and sentences."""

from collections.abc import Mapping, Sequence

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.transactions import name_of
from ollamamax.core.types import HomeView, HostView, MemberReport, NodeRecord, StateHome


def view(
    catalog: Catalog,
    home: StateHome,
    nodes: Sequence[NodeRecord],
    reports: Mapping[str, MemberReport | None],
    last_backup_ns: int,
    lost_reason: str,
) -> HomeView:
    """reports: by node id, None of who did not answer.  lost_reason: why the state can't be reached, "" if it can."""
    statuses = [report.status for report in reports.values() if report is not None and report.status is not None]
    furthest = max((status.raft_index for status in statuses), default=0)
    hosts = tuple(_host(node, reports[node.node_id], furthest, home.kind) for node in nodes)
    trouble = [lost_reason] if lost_reason else []
    trouble += [f"{host.name}: {host.trouble}" for host in hosts if host.trouble]
    voters = [host for host in hosts if not host.is_learner]
    working = sum(not host.trouble for host in voters)
    survives = 0
    if home.kind == "etcd":
        survives = max(0, working - (len(voters) // 2 + 1))
        if working < len(voters) // 2 + 1:
            trouble.append(_lost_majority(working, len(voters)))
    elif home.kind == "external":
        survives = max(0, sum(host.reachable for host in hosts) - 1)
    return HomeView(
        kind=home.kind,
        phase=home.phase,
        generation=home.generation,
        hosts=hosts,
        endpoints=home.endpoints,
        mover=name_of(catalog, home.mover) if home.mover else "",
        survives=survives,
        last_backup_ns=last_backup_ns,
        trouble=tuple(trouble),
    )


def _lost_majority(working: int, voters: int) -> str:
    return (
        f"only {working} of {voters} nodes that hold the state work, and {voters // 2 + 1} are needed: nothing of the "
        "cluster can be changed until enough of them are back; requests are answered as ever. If they never come back: "
        "1. take the newest copy (in `cluster/backups` of a home that is left, or one of `ollamamax cluster backup`); "
        "2. stop the node that is to hold the state; 3. run `ollamamax cluster restore FILE` on it; 4. start it: the "
        "others find it by themselves; 5. `ollamamax cluster ha enable` spreads the state anew"
    )


def _host(node: NodeRecord, report: MemberReport | None, furthest: int, kind: str) -> HostView:
    if report is None:
        return HostView(name=node.name, node_id=node.node_id, trouble="it can't be reached")
    status = report.status
    if kind != "etcd" or status is None:
        trouble = report.trouble if kind == "etcd" else ""
        return HostView(name=node.name, node_id=node.node_id, reachable=True, restarts=report.restarts, trouble=trouble)
    trouble = report.trouble or "; ".join(status.errors) or ("" if status.leader_id else "it knows no leader")
    return HostView(
        name=node.name,
        node_id=node.node_id,
        reachable=True,
        etcd=status.version,
        is_leader=status.leader_id == status.member_id,
        is_learner=status.is_learner,
        db_bytes=status.db_bytes,
        db_used_bytes=status.db_used_bytes,
        raft_index=status.raft_index,
        lag=furthest - status.raft_index,
        restarts=report.restarts,
        trouble=trouble,
    )
