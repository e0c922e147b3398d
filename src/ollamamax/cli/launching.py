"""What makes other programs use a node: their environment, their settings files, and how to start them then.

Sources: the documentation of each program (settings of Claude Code, profiles of Codex, config.yaml of Continue,
language models of VS Code, environment of Open WebUI and of the Copilot CLI, providers of opencode).
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ollamamax.cli import merging

NAME: Final = "OllamaMax"
"""How the node is called in those programs."""
_ID: Final = "ollamamax"
_KEY: Final = "ollamamax"
"""Where a program insists on a key. The node asks for none."""


@dataclass(frozen=True)
class Node:
    """Whom to talk to. model: "" = the program lets a person choose.  context_tokens: of the model; 0 = unknown."""

    url: str
    model: str
    context_tokens: int
    home: Path
    environ: Mapping[str, str]


@dataclass(frozen=True)
class Settings:
    """A settings file. merged: the text with ours in it, "" where that can't be done, and `reason` says why."""

    path: Path
    former: str
    merged: str
    alone: str
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """environment: of the program, for one session.  command: starts it then.  notes: what else matters to people."""

    environment: Mapping[str, str]
    settings: Settings | None
    command: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """title: for people.  needs_model: whether its settings name one.  is_agent: it calls tools in long talks."""

    name: str
    title: str
    needs_model: bool
    is_agent: bool
    plan: Callable[[Node], Plan]


def _settings(path: Path, merge: Callable[[str], str]) -> Settings:
    """merge: raises CannotMerge. Raises: OSError."""
    alone = merge("")
    try:
        former = merging.read(path)
    except merging.CannotMerge as error:
        return Settings(path, "", "", alone, str(error))
    try:
        return Settings(path, former, merge(former), alone)
    except merging.CannotMerge as error:
        return Settings(path, former, "", alone, str(error))


def _config(node: Node) -> Path:
    return Path(node.environ.get("XDG_CONFIG_HOME") or node.home / ".config")


def _claude(node: Node) -> Plan:
    models = ("ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL")
    environment = {
        "ANTHROPIC_BASE_URL": node.url,
        "ANTHROPIC_AUTH_TOKEN": _KEY,
        "ANTHROPIC_API_KEY": "",
        "ANTHROPIC_MODEL": node.model,
        **dict.fromkeys(models, node.model),
        "CLAUDE_CODE_SUBAGENT_MODEL": node.model,
        # A line that changes at the head of each prompt would make the node read all of it anew.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }
    folder = Path(node.environ.get("CLAUDE_CONFIG_DIR") or node.home / ".claude")
    settings = _settings(folder / "settings.json", lambda text: merging.merged_json(text, {"env": environment}))
    return Plan(environment, settings, "claude", ("In the settings file it holds for every session of Claude Code.",))


def _codex(node: Node) -> Plan:
    provider = {"name": NAME, "base_url": f"{node.url}/v1", "wire_api": "responses"}
    window = {"model_context_window": node.context_tokens} if node.context_tokens else {}
    profile = {"model": node.model, "model_provider": _ID, **window, "model_providers": {_ID: provider}}
    folder = Path(node.environ.get("CODEX_HOME") or node.home / ".codex")
    settings = _settings(folder / f"{_ID}.config.toml", lambda text: merging.merged_toml(text, profile))
    notes = (
        "A profile of its own: `codex` alone goes on as before.",
        "Profiles in such files need Codex 0.134 or newer.",
    )
    return Plan({}, settings, f"codex --profile {_ID}", notes)


def _continue(node: Node) -> Plan:
    entry = {
        "name": NAME,
        "provider": "ollama",
        "model": node.model,
        "apiBase": node.url,
        "roles": ["chat", "edit", "apply", "autocomplete"],
    }
    head = {"name": "Local Config", "version": "1.0.0", "schema": "v1"}
    folder = Path(node.environ.get("CONTINUE_GLOBAL_DIR") or node.home / ".continue")
    settings = _settings(folder / "config.yaml", lambda text: merging.merged_yaml_models(text, head, entry))
    return Plan({}, settings, "", (f"Choose {NAME} among the models of Continue.",))


def _copilot(node: Node) -> Plan:
    environment = {
        "COPILOT_PROVIDER_BASE_URL": f"{node.url}/v1",
        "COPILOT_PROVIDER_API_KEY": _KEY,
        "COPILOT_PROVIDER_WIRE_API": "responses",
        "COPILOT_MODEL": node.model,
    }
    return Plan(environment, None, "copilot")


def _open_webui(node: Node) -> Plan:
    notes = (
        "These count at its first start; later the address is in its database: Admin Panel, Settings, Connections.",
        "In a container 127.0.0.1 is the container itself: say http://host.docker.internal:PORT there, and let the "
        "node listen where containers reach it (OLLAMA_HOST=0.0.0.0 ollamamax serve).",
    )
    return Plan({"ENABLE_OLLAMA_API": "True", "OLLAMA_BASE_URL": node.url}, None, "open-webui serve", notes)


def _opencode(node: Node) -> Plan:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": NAME,
        "options": {"baseURL": f"{node.url}/v1"},
        "models": {node.model: {"name": node.model}},
    }
    ours = {"$schema": "https://opencode.ai/config.json", "provider": {_ID: provider}}
    path = _config(node) / "opencode" / "opencode.json"
    settings = _settings(path, lambda text: merging.merged_json(text, ours))
    return Plan({}, settings, f"opencode --model {_ID}/{node.model}")


def _vscode(node: Node) -> Plan:
    is_mac = sys.platform == "darwin"
    folder = node.home / "Library" / "Application Support" if is_mac else _config(node)
    entry = {"vendor": "ollama", "name": NAME, "url": node.url}
    path = folder / "Code" / "User" / "chatLanguageModels.json"
    settings = _settings(path, lambda text: merging.merged_json_list(text, entry, "name"))
    notes = (
        f"Then choose models of {NAME} in the model picker of VS Code's chat; it lists those that can call tools.",
    )
    return Plan({}, settings, "", notes)


PROGRAMS: Final = {
    program.name: program
    for program in (
        Program("claude", "Claude Code", True, True, _claude),
        Program("codex", "Codex", True, True, _codex),
        Program("continue", "Continue", True, False, _continue),
        Program("copilot", "GitHub Copilot CLI", True, True, _copilot),
        Program("open-webui", "Open WebUI", False, False, _open_webui),
        Program("opencode", "opencode", True, True, _opencode),
        Program("vscode", "VS Code", False, False, _vscode),
    )
}
