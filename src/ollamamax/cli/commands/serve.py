"""`ollamamax serve`."""

from typing import Annotated, Any

import typer

from ollamamax.cli.serving import Order

_Config = Annotated[str | None, typer.Option(help="Settings file. [config.toml in the home]", metavar="FILE")]
_PublicAnyway = Annotated[
    bool, typer.Option("--insecure-public", help="Allow an address that other machines can reach, without login.")
]
_PeerListen = Annotated[
    str | None, typer.Option(help="Where other nodes reach this one; off: stay alone. [:11435]", metavar="HOST:PORT")
]
_Join = Annotated[
    str | None, typer.Option(help="Become a member of a cluster first, unless it is one.", metavar="TOKEN")
]
_Name = Annotated[str | None, typer.Option(help="What to call this node in its cluster. [the host name]")]
_Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="Any other setting; repeat it.", metavar="KEY=VALUE")
]


def command(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[str | None, typer.Option(help="Port to listen on; 0 picks one. [11434]")] = None,
    insecure_public: _PublicAnyway = False,
    peer_listen: _PeerListen = None,
    join: _Join = None,
    name: _Name = None,
    home: Annotated[str | None, typer.Option(help="Directory of the node's data. [~/.ollamamax]")] = None,
    models: Annotated[str | None, typer.Option(help="Model store. [~/.ollama/models if it exists]")] = None,
    config: _Config = None,
    origins: Annotated[str | None, typer.Option(help="Origins that browsers may call from, comma-separated.")] = None,
    keep_alive: Annotated[str | None, typer.Option(help="How long unused models stay in memory. [5m]")] = None,
    max_loaded_models: Annotated[str | None, typer.Option(help="Models in memory at once. [automatic]")] = None,
    num_parallel: Annotated[str | None, typer.Option(help="Requests per model at once. [automatic]")] = None,
    context_length: Annotated[str | None, typer.Option(help="Default context in tokens. [automatic]")] = None,
    max_queue: Annotated[str | None, typer.Option(help="Requests that may wait. [512]")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. [info]")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
    assignments: _Assignments = None,
    exit_on_stdin_close: Annotated[bool, typer.Option("--exit-on-stdin-close", hidden=True)] = False,
) -> None:
    """Start a node on this machine and serve until Ctrl-C.

    \b
    Settings come from flags, OLLAMAMAX_* and OLLAMA_* variables and a TOML file, in this order;
    `ollamamax config show` prints what holds. All are explained in docs/settings.md.

    \b
    Examples:
      ollamamax serve --join TOKEN                        a TOKEN is made by: ollamamax token create
      ollamamax serve --host 0.0.0.0 --insecure-public    for a network where you trust everyone
      ollamamax serve --set engine.kv_cache_type=q8_0
    """
    flags = {
        "listen.host": host,
        "listen.port": port,
        "listen.origins": origins,
        "listen.insecure_public": insecure_public or None,
        "home": home,
        "models": models,
        "engine.keep_alive": keep_alive,
        "engine.max_loaded_models": max_loaded_models,
        "engine.num_parallel": num_parallel,
        "engine.context_length": context_length,
        "queue.max_queue": max_queue,
        "log.level": log_level,
        "log.format": log_format,
    }
    raise typer.Exit(context.obj(Order(_all(flags, peer_listen, name, assignments), config, join, exit_on_stdin_close)))


def _all(
    flags: dict[str, Any], peer: str | None, node_name: str | None, assignments: list[str] | None
) -> dict[str, Any]:
    """All that was said on the command line. Raises: SettingsError."""
    from ollamamax.settings import peer_listen

    flags = flags | peer_listen(peer) | {"peer.node_name": node_name}
    return flags | _assigned(assignments or [], flags)


def _assigned(assignments: list[str], flags: dict[str, Any]) -> dict[str, str]:
    """What --set says. Raises: SettingsError for a form that is none, or a key that was given twice."""
    from ollamamax.core.errors import SettingsError

    assigned: dict[str, str] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set {text}: write --set KEY=VALUE, e.g. --set engine.kv_cache_type=q8_0")
        if key in assigned or flags.get(key) is not None:
            raise SettingsError(f"--set {text}: {key} is given twice")
        assigned[key] = value
    return assigned
