"""`ollamamax nodes`."""

import sys
from typing import Annotated

import typer


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the machines of the cluster, as this one sees them.

    \b
    STATE  ready; cordoned (takes no new requests); draining (it is stopping or
           being emptied); drained (it is empty, and takes no new requests);
           suspect (its sign of life is missing); gone (it does not answer)
    ROLE   router or client: how it takes part in membership; holder: it keeps the cluster's state
    AGE    how old what it last told of itself is; a node that is idle has little to tell
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.cluster_words import nodes_table
    from ollamamax.cli.output import print_json

    with connect() as client:
        nodes = client.get("/admin/v1/nodes")["nodes"]
    if as_json:
        print_json(nodes)
    else:
        sys.stdout.write(nodes_table(nodes))
