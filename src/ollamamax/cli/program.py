"""The commands of `ollamamax`."""

import sys
from collections.abc import Callable
from typing import Annotated, Final, NoReturn

import typer

from ollamamax import __version__
from ollamamax.cli.commands import (
    cluster,
    config,
    cp,
    create,
    demo,
    discover,
    engine,
    events,
    join,
    launch,
    node,
    nodes,
    place,
    ps,
    pull,
    push,
    rm,
    run,
    serve,
    show,
    stop,
    token,
    version,
)
from ollamamax.cli.commands import list as list_command
from ollamamax.cli.serving import Order

_TRUE_ALONE: Final = ("--think", "--truncate")

app = typer.Typer(
    name="ollamamax",
    help="Many unequal machines, one Ollama.",
    epilog="Try: ollamamax demo. Commands talk to the node that OLLAMA_HOST names, else to the one on this machine.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.command)
app.command("start", hidden=True)(serve.command)
app.command("run")(run.command)
app.command("list")(list_command.command)
app.command("ls", hidden=True)(list_command.command)
app.command("ps")(ps.command)
app.command("show")(show.command)
app.command("create")(create.command)
app.command("pull")(pull.command)
app.command("push")(push.command)
app.command("cp")(cp.command)
app.command("rm")(rm.command)
app.command("stop")(stop.command)
app.command("discover")(discover.command)
app.command("join")(join.command)
app.add_typer(token.app, name="token")
app.command("nodes")(nodes.command)
app.add_typer(node.app, name="node")
app.command("place")(place.place)
app.command("placements")(place.placements)
app.add_typer(cluster.app, name="cluster")
app.command("events")(events.command)
app.add_typer(engine.app, name="engine")
app.add_typer(config.app, name="config")
app.command("launch")(launch.command)
app.command("demo")(demo.command)
app.command("version")(version.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"ollamamax version is {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", "-v", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Many unequal machines, one Ollama."""


def run_command(words: list[str], start: Callable[[Order], int]) -> NoReturn:
    """Run the command that these words are, and exit. start: what becomes of `serve`; its exit code.

    Raises: CliError, OllamaMaxError.
    """
    app(_with_plain_think(words), prog_name="ollamamax", obj=start)
    raise AssertionError("typer ends the program")


def _with_plain_think(words: list[str]) -> list[str]:
    """`--think` or `--truncate` alone means true: Ollama's options take a value only behind an equals sign."""
    end = words.index("--") if "--" in words else len(words)
    return [f"{word}=true" if word in _TRUE_ALONE else word for word in words[:end]] + words[end:]
