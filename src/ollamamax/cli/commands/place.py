"""`ollamamax place`, `ollamamax placements`."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ollamamax.cli.client import Client

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def place(
    model: Annotated[str, typer.Argument(help="A model of the cluster.")],
    replicas: Annotated[int, typer.Option("--replicas", "-r", min=0, max=1000, help="Kept loaded.")] = 1,
    on: Annotated[
        list[str] | None, typer.Option("--on", help="Only on nodes with this label.", metavar="KEY=VALUE")
    ] = None,
    pin: Annotated[list[str] | None, typer.Option("--pin", help="One of them on this node.", metavar="NODE")] = None,
    max_replicas: Annotated[
        int, typer.Option("--max-replicas", min=0, max=1000, help="As many while requests wait. [as --replicas]")
    ] = 0,
    idle: Annotated[str, typer.Option("--idle", help="An extra replica that was idle for so long goes.")] = "5m",
    remove: Annotated[bool, typer.Option("--remove", help="Keep it loaded nowhere any more.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what would be decided, and change nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until the replicas are ready.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="How long --wait waits.")] = "10m",
    as_json: _Json = False,
) -> None:
    """Keep replicas of a model loaded, wherever the cluster has room for them, also when machines die.

    \b
    Examples:
      ollamamax place llama3.2 --replicas 2
      ollamamax place llama3.2 --replicas 2 --on gpu=4090 --wait
      ollamamax place llama3.2 --replicas 2 --pin office --max-replicas 4 --idle 10m
      ollamamax place llama3.2 --replicas 3 --explain
      ollamamax place llama3.2 --remove
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.placing import labels_of, milliseconds, placement_path

    pins = pin or []
    wish: dict[str, Any] = {
        "replicas": max(replicas, len(set(pins))),
        "pins": pins,
        "labels": labels_of(on or []),
        "max_replicas": max_replicas,
        "idle_ms": milliseconds(idle, "--idle"),
    }
    wait_s = milliseconds(timeout, "--timeout") / 1000 if wait else None
    with connect() as client:
        if remove:
            client.delete(placement_path(model))
            _show({"name": model}, f"'{model}' is not placed any more\n", as_json)
        elif explain:
            _explain(client, model, wish, as_json)
        else:
            _place(client, model, wish, wait_s, as_json)


def _explain(client: "Client", model: str, wish: dict[str, Any], as_json: bool) -> None:
    from ollamamax.cli.placing import placement_path, plan_text

    plan = client.post(f"{placement_path(model)}/explain", wish)
    _show(plan, plan_text(plan), as_json)


def _place(client: "Client", model: str, wish: dict[str, Any], wait_s: float | None, as_json: bool) -> None:
    from ollamamax.cli.placing import placement_path, placement_text, wait_until_ready
    from ollamamax.cli.progress import ProgressView

    placed = client.put(placement_path(model), wish)
    if wait_s is not None:
        placed = wait_until_ready(client, model, wait_s, ProgressView(quiet=as_json).say)
    _show(placed, placement_text(placed), as_json)


def _show(answer: Any, text: str, as_json: bool) -> None:
    from ollamamax.cli.output import print_json

    if as_json:
        print_json(answer)
    else:
        sys.stdout.write(text)


def placements(
    model: Annotated[str, typer.Argument(help="Only this one, with all reasons.")] = "",
    as_json: _Json = False,
) -> None:
    """List the models that were placed: desired, ready and missing replicas, where, and why."""
    from ollamamax.cli.client import connect
    from ollamamax.cli.output import harmless
    from ollamamax.cli.placing import placement_path, placements_table

    with connect() as client:
        if model:
            one = client.get(placement_path(model))
            _show(one, f"{placements_table([one])}\n{harmless(one['explanation'])}\n", as_json)
            return
        found = client.get("/admin/v1/placements")["placements"]
    _show(found, placements_table(found), as_json)
