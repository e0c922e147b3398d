"""`ollamamax events`."""

import sys
from typing import Annotated

import typer


def command(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Tell what happened in the cluster, as this node saw it since it started: who joined, went, came back.

    \b
    Examples:
      ollamamax events
      ollamamax events --follow --json
    """
    import json
    from contextlib import closing

    from ollamamax.cli.client import connect
    from ollamamax.cli.cluster_words import event_line

    path = "/admin/v1/events?follow=true" if follow else "/admin/v1/events"
    with connect() as client, closing(client.stream(path)) as events:
        for event in events:
            sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n" if as_json else event_line(event))
            sys.stdout.flush()
