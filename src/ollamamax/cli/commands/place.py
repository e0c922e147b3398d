"""`ollamamax place`, `ollamamax placements`."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

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
    from ollamamax.cli.output import print_json
    from ollamamax.cli.placing import (
        labels_of,
        milliseconds,
        placement_path,
        placement_text,
        plan_text,
        wait_until_ready,
    )

    path = placement_path(model)
    with connect() as client:
        if remove:
            client.delete(path)
            print_json({"name": model}) if as_json else sys.stdout.write(f"'{model}' is not placed any more\n")
            return
        pins = pin or []
        wish: dict[str, Any] = {
            "replicas": max(replicas, len(set(pins))),
            "pins": pins,
            "labels": labels_of(on or []),
            "max_replicas": max_replicas,
            "idle_ms": milliseconds(idle, "--idle"),
        }
        if explain:
            plan = client.post(f"{path}/explain", wish)
            print_json(plan) if as_json else sys.stdout.write(plan_text(plan))
            return
        placed = client.put(path, wish)
        if wait:
            placed = wait_until_ready(client, model, milliseconds(timeout, "--timeout") / 1000, _sayer(as_json))
    print_json(placed) if as_json else sys.stdout.write(placement_text(placed))


def placements(
    model: Annotated[str, typer.Argument(help="Only this one, with all reasons.")] = "",
    as_json: _Json = False,
) -> None:
    """List the models that were placed: desired, ready and missing replicas, where, and why."""
    from ollamamax.cli.client import connect
    from ollamamax.cli.output import harmless, print_json
    from ollamamax.cli.placing import placement_path, placements_table

    with connect() as client:
        if model:
            one = client.get(placement_path(model))
            text = f"{placements_table([one])}\n{harmless(one['explanation'])}\n"
            print_json(one) if as_json else sys.stdout.write(text)
            return
        found = client.get("/admin/v1/placements")["placements"]
    print_json(found) if as_json else sys.stdout.write(placements_table(found))


def _sayer(quiet: bool) -> Callable[[str], None]:
    from ollamamax.cli.progress import ProgressView

    return ProgressView(quiet=quiet).say
