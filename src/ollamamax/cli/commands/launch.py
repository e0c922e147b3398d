"""`ollamamax launch`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from ollamamax.cli.client import Client
    from ollamamax.cli.launching import Plan, Program, Settings

_AGENT_TOKENS: Final = 32_768
"""What their own prompts and a few files take; with less they forget what they are doing."""


def command(
    program: Annotated[str, typer.Argument(help="claude, codex, continue, ...; none: list them.")] = "",
    model: Annotated[
        str, typer.Option("--model", help="The model it is to use.  [default: the newest that fits]")
    ] = "",
    print_only: Annotated[bool, typer.Option("--print", help="Only print the settings; the default.")] = False,
    write: Annotated[
        bool, typer.Option("--write", "--config", help="Write its settings file, after a look at the changes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --write: do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make another program use this node: print the settings it needs, or write them.

    \b
    What stands in a settings file already stays there, and the former file is kept beside the new one.
    Examples:
      ollamamax launch
      ollamamax launch claude --model qwen3:8b
      ollamamax launch codex --write
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.errors import CliError
    from ollamamax.cli.launching import PROGRAMS, Node
    from ollamamax.cli.output import print_json

    if not program:
        _list(as_json)
        return
    if print_only and write:
        raise CliError("only one of --print and --write can be given")
    chosen = PROGRAMS.get(program)
    if chosen is None:
        raise CliError(f"no settings are known for '{program}'; there are: {', '.join(PROGRAMS)}")
    with connect() as client:
        used, context_tokens, warnings = _model(client, chosen, model)
        node = Node(client.url, used, context_tokens, Path.home(), os.environ)
    plan = chosen.plan(node)
    for warning in warnings:
        sys.stderr.write(f"Warning: {warning}\n")
    backup = _write(chosen, plan.settings, yes, as_json) if write else None
    if as_json:
        print_json(_as_object(chosen, used, plan, warnings, backup))
    elif not write:
        sys.stdout.write(_as_text(chosen, plan))


def _list(as_json: bool) -> None:
    from ollamamax.cli.launching import PROGRAMS
    from ollamamax.cli.output import print_json, table

    if as_json:
        print_json([{"name": one.name, "title": one.title} for one in PROGRAMS.values()])
    else:
        sys.stdout.write(table(("NAME", "PROGRAM"), [(one.name, one.title) for one in PROGRAMS.values()]))


# --- the model --------------------------------------------------------------------------------------------------------


def _model(client: "Client", program: "Program", asked: str) -> tuple[str, int, list[str]]:
    """The model, how many tokens it knows (0: unknown), and what speaks against it. Raises: CliError."""
    from ollamamax.cli.errors import CliError, Unreachable

    if not program.needs_model and not asked:
        return "", 0, []
    try:
        listed = [row["model"] for row in client.get("/api/tags")["models"]]
        fitting = (name for name in listed if not program.is_agent or "tools" in _shown(client, name)["capabilities"])
        name = asked or next(fitting, "") or next(iter(listed), "")
        if not name:
            raise CliError("the node has no model yet; get one with `ollamamax pull`, or say --model")
        if asked and not {asked, f"{asked}:latest"} & set(listed):
            return asked, 0, [f"the node has no model '{asked}'; get it with `ollamamax pull {asked}`"]
        return name, *_doubts(_shown(client, name), name, program)
    except Unreachable as error:
        if not asked:
            raise CliError(f"{error} Or say --model.") from error
        return asked, 0, [str(error)]


def _shown(client: "Client", name: str) -> dict[str, Any]:
    shown: dict[str, Any] = client.post("/api/show", {"model": name})
    return {"capabilities": [], "model_info": {}, **shown}


def _doubts(shown: dict[str, Any], name: str, program: "Program") -> tuple[int, list[str]]:
    facts = shown["model_info"]
    tokens = int(facts.get(f"{facts.get('general.architecture')}.context_length", 0))
    if not program.is_agent:
        return tokens, []
    doubts = [] if "tools" in shown["capabilities"] else [f"{name} can't call tools, and {program.title} needs them"]
    if 0 < tokens < _AGENT_TOKENS:
        doubts.append(f"{name} knows {tokens} tokens at once, and {program.title} needs about {_AGENT_TOKENS}")
    return tokens, doubts


# --- settings ---------------------------------------------------------------------------------------------------------


def _write(program: "Program", settings: "Settings | None", yes: bool, quiet: bool) -> Path | None:
    """Show what changes, ask, write; where the former file is. Raises: CliError."""
    from difflib import unified_diff

    from ollamamax.cli import merging
    from ollamamax.cli.asking import agreed
    from ollamamax.cli.errors import CliError

    if settings is None:
        raise CliError(f"{program.title} has no file for this: `ollamamax launch {program.name}` prints what to set")
    if not settings.merged:
        raise CliError(f"{settings.path} can't be merged: {settings.reason}. Add this to it:\n\n{settings.alone}")
    if settings.merged == settings.former:
        sys.stderr.write(f"{settings.path} is as it should be already\n")
        return None
    name = str(settings.path)
    before, after = (text.splitlines(keepends=True) for text in (settings.former, settings.merged))
    sys.stderr.writelines(
        line if line.endswith("\n") else f"{line}\n" for line in unified_diff(before, after, name, name)
    )
    if not yes and not agreed(f"Write {settings.path}?"):
        raise CliError("nothing was written")
    try:
        backup = merging.write(settings.path, settings.merged)
    except OSError as error:
        raise CliError(f"can't write {settings.path}: {error.strerror or error}") from error
    if not quiet:
        sys.stdout.write(f"wrote {settings.path}\n" + (f"the former one is {backup}\n" if backup else ""))
    return backup


def _as_text(program: "Program", plan: "Plan") -> str:
    from shlex import quote

    from ollamamax.cli.output import harmless

    parts = []
    if plan.environment:
        lines = [f"  export {name}={quote(value)}\n" for name, value in plan.environment.items()]
        parts.append(f"For one session of {program.title}, in a shell:\n" + "".join(lines) + f"  {plan.command}\n")
    if plan.settings is not None:
        text = "".join(f"  {line}".rstrip() + "\n" for line in plan.settings.alone.splitlines())
        how = f"`ollamamax launch {program.name} --write` merges it in"
        if not plan.settings.merged:
            how = f"by hand: {plan.settings.reason}"
        parts.append(f"For good, in {plan.settings.path} ({how}):\n{text}")
        if not plan.environment and plan.command:
            parts.append(f"Then:\n  {plan.command}\n")
    parts += [f"{note}\n" for note in plan.notes]
    return harmless("\n".join(parts))


def _as_object(
    program: "Program", model: str, plan: "Plan", warnings: list[str], backup: Path | None
) -> dict[str, Any]:
    settings = plan.settings
    return {
        "name": program.name,
        "title": program.title,
        "model": model,
        "environment": dict(plan.environment),
        "file": None
        if settings is None
        else {
            "path": str(settings.path),
            "content": settings.alone,
            "merged": settings.merged or None,
            "reason": settings.reason,
            "backup": str(backup) if backup else None,
        },
        "command": plan.command,
        "notes": list(plan.notes),
        "warnings": warnings,
    }
