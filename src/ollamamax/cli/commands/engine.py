"""`ollamamax engine add|list|remove`: servers elsewhere that this node may use."""

import os
import re
import sys
from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer(
    help="Attach other servers (Ollama, llama-server, vLLM, SGLang, ...) to the node, so that it can use their models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Kind(StrEnum):
    """What `--kind` takes."""

    auto = "auto"
    ollama = "ollama"
    openai = "openai"


@app.command("add")
def add(
    url: Annotated[str, typer.Argument(help="Its base URL, e.g. http://gpu-box:11434")],
    name: Annotated[str, typer.Option(help="What to call it; made from the URL if not said.")] = "",
    kind: Annotated[Kind, typer.Option(help="What it speaks; auto asks it.")] = Kind.auto,
    api_key_env: Annotated[
        str, typer.Option("--api-key-env", metavar="VARIABLE", help="Environment variable that holds its API key.")
    ] = "",
    api_key_stdin: Annotated[
        bool, typer.Option("--api-key-stdin", help="Read its API key from standard input.")
    ] = False,
    slots: Annotated[int, typer.Option(min=1, help="Requests that it gets at once.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Attach a server. The node remembers it across restarts; keys are kept in a file that only you can read.

    \b
    Examples:
      ollamamax engine add http://gpu-box:11434
      ollamamax engine add http://vllm:8000 --kind openai --api-key-env VLLM_KEY --slots 32
    """
    from ollamamax.cli.client import connect, probe_kind
    from ollamamax.cli.output import print_json

    if "://" not in url:
        url = f"http://{url}"
    url = url.rstrip("/")
    api_key = _api_key(api_key_env, api_key_stdin)
    spoken = probe_kind(url, api_key) if kind is Kind.auto else kind.value
    body = {"name": name or default_name(url), "kind": spoken, "url": url, "slots": slots}
    with connect() as client:
        client.post("/admin/v1/engines", body | ({"api_key": api_key} if api_key else {}))
        engines = {engine["name"]: engine for engine in client.get("/admin/v1/engines")["engines"]}
    if as_json:
        print_json(body)
    else:
        sys.stdout.write(f"attached '{body['name']}' ({spoken}) at {url} with {slots} slots\n")
    attached = engines.get(body["name"], {})
    if not attached.get("reachable", True):
        sys.stderr.write(f"Warning: the node can't reach it yet: {attached.get('error') or 'no answer'}\n")


def _api_key(variable: str, from_stdin: bool) -> str:
    """The key, never from the command line, which others on the machine can read."""
    from ollamamax.cli.errors import CliError

    if variable and from_stdin:
        raise CliError("only one of --api-key-env and --api-key-stdin can be given")
    if variable:
        if not os.environ.get(variable):
            raise CliError(f"the environment variable {variable} (--api-key-env) is not set")
        return os.environ[variable]
    if not from_stdin:
        return ""
    if sys.stdin.isatty():
        from getpass import getpass

        key = getpass("API key: ")
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise CliError("no API key came on standard input")
    return key.strip()


def default_name(url: str) -> str:
    """A name from a URL's host and port: http://gpu-box:11434 -> gpu-box-11434."""
    return re.sub(r"[^a-z0-9.]+", "-", url.partition("://")[2].partition("/")[0].lower()).strip("-.")[:64] or "engine"


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the servers that the node uses and what they offer; `local` is the node's own engine."""
    from ollamamax.cli.client import connect
    from ollamamax.cli.output import print_json, table

    with connect() as client:
        engines = client.get("/admin/v1/engines")["engines"]
    if as_json:
        print_json(engines)
        return
    rows = [
        (
            engine["name"],
            engine["kind"],
            engine.get("url") or "-",
            f"{engine.get('in_flight', 0)}/{engine['slots']}",
            "up" if engine.get("reachable") else f"down: {engine.get('error') or 'no answer'}",
            ", ".join(engine.get("models") or []),
        )
        for engine in engines
    ]
    sys.stdout.write(table(("NAME", "KIND", "URL", "BUSY", "STATE", "MODELS"), rows))


@app.command("remove")
def remove(names: Annotated[list[str], typer.Argument(help="Names as `engine list` shows them.")]) -> None:
    """Detach servers. Their models stay where they are."""
    from urllib.parse import quote

    from ollamamax.cli.client import connect

    with connect() as client:
        for name in names:
            client.delete(f"/admin/v1/engines/{quote(name, safe='')}")
            sys.stdout.write(f"removed '{name}'\n")
