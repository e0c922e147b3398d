"""`ollamamax discover`."""

import sys
from typing import Annotated, Any

import typer


def command(
    timeout: Annotated[float, typer.Option(min=0.1, max=30.0, help="Seconds to wait for answers.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the clusters on this LAN, found by multicast.

    \b
    Anyone on the LAN can answer, so names prove nothing. To get in takes a token, which one of the
    members makes (`ollamamax token create`) and which says by the key's hash which cluster it means.
    """
    from ollamamax.cli.cluster_words import clusters_table
    from ollamamax.cli.output import print_json

    clusters = _found(int(timeout * 1000))
    if as_json:
        print_json(clusters)
    elif clusters:
        sys.stdout.write(clusters_table(clusters))
    else:
        sys.stderr.write(
            "No cluster answered. Where the network passes no multicast (other subnets, containers, clouds) none "
            "will: join by a token, which carries the address.\n"
        )


def _found(timeout_ms: int) -> list[dict[str, Any]]:
    """What the node that runs here sees; where none runs, what this process sees."""
    from ollamamax.cli.client import ask_node

    seen: dict[str, Any] | None = ask_node(lambda client: client.get(f"/admin/v1/discover?timeout_ms={timeout_ms}"))
    if seen is not None:
        clusters: list[dict[str, Any]] = seen["clusters"]
        return clusters
    import os

    import msgspec

    from ollamamax.cli import offline
    from ollamamax.settings import load

    found = offline.discover(load({}, os.environ).settings, timeout_ms)
    return [msgspec.to_builtins(cluster) for cluster in found]
