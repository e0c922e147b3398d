"""`ollamamax launch`: settings of other programs printed, merged, written."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import Cli, cli
from fake_node import Reply

from ollamamax.cli.launching import PROGRAMS

__all__ = ["cli"]  # the fixture

MODEL = "qwen3:8b"
FILES = {
    "claude": ".claude/settings.json",
    "codex": ".codex/ollamamax.config.toml",
    "continue": ".continue/config.yaml",
    "opencode": ".config/opencode/opencode.json",
    "vscode": ".config/Code/User/chatLanguageModels.json",
}


@pytest.fixture(autouse=True)
def node(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a model that can do little and one that fits; no program's folder is moved."""
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "CONTINUE_GLOBAL_DIR"):
        monkeypatch.delenv(name, raising=False)
    cli.node.answers["GET /api/tags"] = Reply(body={"models": [{"model": "tiny:latest"}, {"model": MODEL}]})
    shown(cli, tools=True, context=40_960)


def shown(cli: Cli, tools: bool, context: int) -> None:
    info = {"general.architecture": "qwen3", "qwen3.context_length": context}
    body = {"capabilities": ["completion", *(["tools"] if tools else [])], "model_info": info}
    cli.node.answers["POST /api/show"] = Reply(body=body)


def read(path: Path) -> Any:
    text = path.read_text()
    return {".json": json.loads, ".toml": tomllib.loads, ".yaml": yaml.safe_load}[path.suffix](text)


def test_the_programs_are_listed(cli: Cli) -> None:
    done = cli("launch")
    assert [line.split()[0] for line in done.out.splitlines()] == ["NAME", *PROGRAMS]
    assert [row["name"] for row in json.loads(cli("launch", "--json").out)] == list(PROGRAMS)
    assert {"claude", "codex", "continue", "open-webui", "vscode"} <= set(PROGRAMS)


def test_claude_code(cli: Cli) -> None:
    told = cli("launch", "claude", "--model", MODEL)
    assert f"  export ANTHROPIC_BASE_URL={cli.node.url}\n" in told.out
    assert f"  export ANTHROPIC_MODEL={MODEL}\n" in told.out
    assert "  export ANTHROPIC_API_KEY=''\n" in told.out
    assert cli("launch", "claude", "--model", MODEL, "--write", stdin="").code == 0
    environment = read(cli.home / FILES["claude"])["env"]
    assert environment["ANTHROPIC_BASE_URL"] == cli.node.url
    assert environment["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == MODEL
    assert environment["ANTHROPIC_AUTH_TOKEN"]


def test_codex(cli: Cli) -> None:
    assert "codex --profile ollamamax" in cli("launch", "codex", "--model", MODEL).out
    assert cli("launch", "codex", "--model", MODEL, "--write", stdin="").code == 0
    assert read(cli.home / FILES["codex"]) == {
        "model": MODEL,
        "model_provider": "ollamamax",
        "model_context_window": 40_960,
        "model_providers": {
            "ollamamax": {"name": "OllamaMax", "base_url": f"{cli.node.url}/v1", "wire_api": "responses"}
        },
    }


def test_continue(cli: Cli) -> None:
    assert cli("launch", "continue", "--model", MODEL, "--write", stdin="").code == 0
    written = read(cli.home / FILES["continue"])
    assert {"name", "version", "schema"} <= set(written)
    [entry] = written["models"]
    assert (entry["provider"], entry["model"], entry["apiBase"]) == ("ollama", MODEL, cli.node.url)


def test_vs_code(cli: Cli) -> None:
    assert cli("launch", "vscode", "--write", stdin="").code == 0
    assert read(cli.home / FILES["vscode"]) == [{"vendor": "ollama", "name": "OllamaMax", "url": cli.node.url}]


def test_opencode(cli: Cli) -> None:
    assert cli("launch", "opencode", "--model", MODEL, "--write", stdin="").code == 0
    provider = read(cli.home / FILES["opencode"])["provider"]["ollamamax"]
    assert provider["options"] == {"baseURL": f"{cli.node.url}/v1"}
    assert MODEL in provider["models"]


@pytest.mark.parametrize(
    ("program", "variable"), [("open-webui", "OLLAMA_BASE_URL"), ("copilot", "COPILOT_PROVIDER_BASE_URL")]
)
def test_programs_without_a_file(cli: Cli, program: str, variable: str) -> None:
    assert f"  export {variable}={cli.node.url}" in cli("launch", program, "--model", MODEL).out
    told = cli("launch", program, "--model", MODEL, "--write")
    assert told.code == 1
    assert "has no file for this" in told.err


@pytest.mark.parametrize("program", FILES)
def test_folders_may_be_elsewhere(cli: Cli, program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    variables = {"claude": "CLAUDE_CONFIG_DIR", "codex": "CODEX_HOME", "continue": "CONTINUE_GLOBAL_DIR"}
    monkeypatch.setenv(variables.get(program, "XDG_CONFIG_HOME"), str(elsewhere))
    told = json.loads(cli("launch", program, "--model", MODEL, "--json").out)
    assert Path(told["file"]["path"]).is_relative_to(elsewhere)


def test_what_is_there_stays_and_the_former_file_is_kept(cli: Cli) -> None:
    path = cli.home / FILES["claude"]
    path.parent.mkdir()
    former = '{\n\t"permissions": {"allow": ["Bash"]},\n\t"env": {"EDITOR": "vi", "ANTHROPIC_BASE_URL": "x"}\n}\n'
    path.write_text(former)
    path.chmod(0o600)
    done = cli("launch", "claude", "--model", MODEL, "--write", typed="y\n")
    assert done.code == 0
    assert '-\t"env": {"EDITOR": "vi", "ANTHROPIC_BASE_URL": "x"}' in done.err
    assert f'+\t\t"ANTHROPIC_BASE_URL": "{cli.node.url}",' in done.err
    merged = read(path)
    assert merged["permissions"] == {"allow": ["Bash"]}
    assert (merged["env"]["EDITOR"], merged["env"]["ANTHROPIC_BASE_URL"]) == ("vi", cli.node.url)
    assert path.stat().st_mode & 0o777 == 0o600
    backup = path.with_name("settings.json.backup-1")
    assert backup.read_text() == former
    assert backup.stat().st_mode & 0o777 == 0o600
    assert str(backup) in done.out
    again = cli("launch", "claude", "--model", MODEL, "--write", typed="y\n")
    assert "is as it should be already" in again.err
    assert cli("launch", "claude", "--model", "tiny", "--write", "--yes").code == 0
    assert path.with_name("settings.json.backup-2").exists()


def test_nothing_is_written_against_a_persons_will(cli: Cli) -> None:
    done = cli("launch", "vscode", "--write", typed="n\n")
    assert (done.code, done.err.splitlines()[-1].endswith("Error: nothing was written")) == (1, True)
    assert not (cli.home / FILES["vscode"]).exists()


def test_a_link_stays_a_link(cli: Cli) -> None:
    kept, path = cli.home / "dotfiles" / "claude.json", cli.home / FILES["claude"]
    kept.parent.mkdir()
    path.parent.mkdir()
    kept.write_text("{}")
    path.symlink_to(kept)
    assert cli("launch", "claude", "--model", MODEL, "--write", "--yes").code == 0
    assert path.is_symlink()
    assert read(kept)["env"]["ANTHROPIC_MODEL"] == MODEL


@pytest.mark.parametrize(
    ("program", "former"),
    [
        ("claude", '{\n  // mine\n  "env": {}\n}\n'),
        ("claude", "[1]"),
        ("claude", '{"env": {}, "env": {}}'),
        ("claude", "\udcff"),
        ("vscode", '[{"name": "a"},]'),
        ("vscode", "{}"),
        ("codex", "model = "),
        ("codex", 'model_providers = {ollamamax = {name = "x"}}'),
        ("continue", "{name: x, models: []}"),
        ("continue", "models: [{name: x}]"),
        ("continue", "models:\n  a: b\n"),
        ("continue", "- a\n"),
        ("opencode", "/* mine */ {}"),
    ],
)
def test_what_can_not_be_merged_is_told_and_left_alone(cli: Cli, program: str, former: str) -> None:
    path = cli.home / FILES[program]
    path.parent.mkdir(parents=True)
    path.write_bytes(former.encode("utf-8", "surrogateescape"))
    done = cli("launch", program, "--model", MODEL, "--write", "--yes")
    assert done.code == 1
    assert f"{path} can't be merged: it" in done.err
    assert cli.node.url in done.err
    assert path.read_bytes() == former.encode("utf-8", "surrogateescape")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert "(by hand: it" in cli("launch", program, "--model", MODEL).out


def test_the_newest_model_that_fits_is_taken(cli: Cli) -> None:
    assert json.loads(cli("launch", "claude", "--json").out)["model"] == "tiny:latest"
    shown(cli, tools=False, context=4096)
    done = cli("launch", "claude", "--json")
    told = json.loads(done.out)
    assert told["model"] == "tiny:latest"
    assert [text.split(", and")[0] for text in told["warnings"]] == [
        "tiny:latest can't call tools",
        "tiny:latest knows 4096 tokens at once",
    ]
    assert done.err.count("Warning: ") == 2
    assert json.loads(cli("launch", "continue", "--json").out)["warnings"] == []
    cli.node.answers["GET /api/tags"] = Reply(body={"models": []})
    assert "the node has no model yet" in cli("launch", "claude").err


def test_a_model_that_is_not_there(cli: Cli) -> None:
    done = cli("launch", "codex", "--model", "nobody")
    assert done.code == 0
    assert "Warning: the node has no model 'nobody'; get it with `ollamamax pull nobody`" in done.err
    assert 'model = "nobody"' in done.out


def test_no_node(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    done = cli("launch", "claude", "--model", MODEL)
    assert done.code == 0
    assert "Warning: no OllamaMax answers" in done.err
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:1" in done.out
    without = cli("launch", "claude")
    assert without.code == 1
    assert without.err.endswith("Or say --model.\n")


def test_wrong_words(cli: Cli) -> None:
    assert "no settings are known for 'emacs'; there are: claude, codex" in cli("launch", "emacs").err
    assert "only one of --print and --write" in cli("launch", "claude", "--print", "--write").err


def test_json_tells_all(cli: Cli) -> None:
    told = json.loads(cli("launch", "claude", "--model", MODEL, "--json").out)
    assert set(told) == {"name", "title", "model", "environment", "file", "command", "notes", "warnings"}
    assert json.loads(told["file"]["content"])["env"] == told["environment"]
    assert told["file"]["backup"] is None
    written = json.loads(cli("launch", "claude", "--model", MODEL, "--json", "--write", "--yes").out)
    assert Path(written["file"]["path"]).read_text() == written["file"]["merged"]
