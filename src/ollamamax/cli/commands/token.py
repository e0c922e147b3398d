"""`ollamamax token create|list|revoke`: how other machines get into the cluster."""

import sys
from typing import Annotated

import typer

app = typer.Typer(
    help="Join tokens: with one of them another machine gets into this cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("create")
def create(
    ttl: Annotated[str, typer.Option(help="How long it can be used, e.g. 10m, 1h, 24h.")] = "1h",
    uses: Annotated[int, typer.Option(min=1, max=1000, help="How many machines may join by it.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a token and print it. Whoever has it can join, so treat it like a password.

    \b
    It names this cluster's address and its key's hash, so that the machine that joins knows whom it talks to.

    \b
    Examples:
      ollamamax token create
      ollamamax token create --ttl 24h --uses 10
      ssh box ollamamax join "$(ollamamax token create)"
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.errors import CliError
    from ollamamax.cli.output import print_json, span
    from ollamamax.settings.values import seconds_or_duration_ms

    try:
        ttl_ms = seconds_or_duration_ms(ttl)
    except ValueError as error:
        raise CliError(f"--ttl {ttl}: {error}", exit_code=2) from error
    with connect() as client:
        made = client.post("/admin/v1/tokens", {"ttl_ms": ttl_ms, "uses": uses})
    if as_json:
        print_json(made)
        return
    sys.stdout.write(f"{made['token']}\n")
    machines = "one other machine" if uses == 1 else f"up to {uses} other machines"
    sys.stderr.write(f"On {machines}, within {span(ttl_ms / 1000)}: ollamamax join TOKEN\n")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the tokens; their secrets are not kept."""
    import time

    from ollamamax.cli.client import connect
    from ollamamax.cli.cluster_words import tokens_table
    from ollamamax.cli.output import print_json

    with connect() as client:
        tokens = client.get("/admin/v1/tokens")["tokens"]
    if as_json:
        print_json(tokens)
    else:
        sys.stdout.write(tokens_table(tokens, time.time_ns()))


@app.command("revoke")
def revoke(tokens: Annotated[list[str], typer.Argument(help="Ids as `token list` shows them.")]) -> None:
    """Make tokens worthless. Machines that joined by them stay; `node remove` ends that."""
    from urllib.parse import quote

    from ollamamax.cli.client import connect

    with connect() as client:
        for token in tokens:
            client.delete(f"/admin/v1/tokens/{quote(token, safe='')}")
            sys.stdout.write(f"revoked '{token}'\n")
