"""`ollamamax create`: what of a Modelfile is sent, and what is refused before anything is."""

import hashlib
import json
from pathlib import Path

import pytest
from cli_support import Cli, cli
from fake_node import Asked, Reply, error, stream
from pty_child import Pty

__all__ = ["cli"]  # the fixture

WEIGHTS = b"GGUF" + bytes(range(256)) * 9000
DIGEST = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def folder(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a GGUF; the node takes everything."""
    place = cli.home / "work"
    place.mkdir()
    (place / "w.gguf").write_bytes(WEIGHTS)
    monkeypatch.chdir(place)
    cli.node.answers[f"HEAD /api/blobs/{DIGEST}"] = Reply(404)
    cli.node.answers[f"POST /api/blobs/{DIGEST}"] = Reply(201)
    cli.node.answers["POST /api/create"] = stream(
        {"status": "parsing GGUF"},
        {"status": "creating new layer", "digest": DIGEST, "total": 10, "completed": 5},
        {"status": "creating new layer", "digest": DIGEST, "total": 10, "completed": 10},
        {"status": "success"},
    )
    return place


def created(cli: Cli) -> dict[str, object]:
    body: dict[str, object] = cli.node.to("/api/create")[-1].json
    return body


def test_everything_of_a_modelfile_is_sent(cli: Cli, folder: Path) -> None:
    (folder / "Modelfile").write_text(
        'FROM ./w.gguf\nADAPTER w.gguf\nTEMPLATE """{{ .Prompt }}\n"""\nSYSTEM Be brief.\nPARAMETER temperature 0.5\n'
        "PARAMETER stop a\nPARAMETER stop b\nPARAMETER num_ctx 512\nPARAMETER mirostat 1\n"
        "MESSAGE user Hi\nMESSAGE assistant Hello\nLICENSE MIT\nREQUIRES 0.14.0\nRENDERER r\nPARSER p\n"
    )
    done = cli("create", "mine", "-q", "q8_0")
    assert done.code == 0, done.err
    assert created(cli) == {
        "model": "mine",
        "files": {"w.gguf": DIGEST},
        "adapters": {"w.gguf": DIGEST},
        "template": "{{ .Prompt }}\n",
        "system": "Be brief.",
        "parameters": {"temperature": 0.5, "stop": ["a", "b"], "num_ctx": 512},
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "license": ["MIT"],
        "requires": "0.14.0",
        "renderer": "r",
        "parser": "p",
        "quantize": "q8_0",
    }
    assert cli.node.to(f"/api/blobs/{DIGEST}")[1].body == WEIGHTS
    assert cli.node.to(f"/api/blobs/{DIGEST}")[1].headers["content-length"] == str(len(WEIGHTS))
    assert done.out == ""
    assert "Warning: parameter mirostat is deprecated" in done.err
    assert done.err.endswith(
        "hashing w.gguf\nsending w.gguf\nhashing w.gguf\nsending w.gguf\nparsing GGUF\ncreating new layer\nsuccess\n"
    )


def test_a_blob_that_is_there_is_not_sent(cli: Cli, folder: Path) -> None:
    cli.node.answers[f"HEAD /api/blobs/{DIGEST}"] = Reply(200)
    (folder / "Modelfile").write_text("FROM w.gguf\n")
    assert cli("create", "mine").code == 0
    assert [request.method for request in cli.node.to(f"/api/blobs/{DIGEST}")] == ["HEAD"]


def test_paths_start_at_the_modelfile(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "Other").write_text("FROM ./w.gguf\n")
    monkeypatch.chdir(cli.home)
    assert cli("create", "mine", "-f", "work/Other").code == 0
    assert created(cli)["files"] == {"w.gguf": DIGEST}


def test_a_directory_and_no_modelfile(cli: Cli, folder: Path) -> None:
    assert cli("create", "mine").code == 0
    assert created(cli) == {"model": "mine", "files": {"w.gguf": DIGEST}}


def test_what_belongs_together_is_sent(cli: Cli, folder: Path) -> None:
    parts = [f"p-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for name in parts:
        (folder / name).write_bytes(WEIGHTS)
    (folder / "Modelfile").write_text(f"FROM ./{parts[1]}\n")
    assert cli("create", "mine").code == 0
    assert created(cli)["files"] == dict.fromkeys(parts, DIGEST)
    (folder / "hf").mkdir()
    kept = ["model-1.safetensors", "model-2.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
    for name in [*kept, "consolidated.safetensors", "README.md"]:
        (folder / "hf" / name).write_bytes(WEIGHTS)
    (folder / "Modelfile").write_text("FROM ./hf\n")
    assert cli("create", "mine").code == 0
    assert created(cli)["files"] == dict.fromkeys(kept, DIGEST)


def test_from_another_model(cli: Cli, folder: Path) -> None:
    (folder / "Modelfile").write_text('FROM tiny\nSYSTEM ""\n')
    done = cli("create", "mine", "--json")
    assert created(cli) == {"model": "mine", "from": "tiny", "system": ""}
    assert json.loads(done.out) == {"status": "success", "model": "mine"}
    assert done.err == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("FROM ./nix.gguf\n", "FROM ./nix.gguf: no such file (looked for "),
        ("FROM tiny\nADAPTER nix\n", "ADAPTER nix: no such file"),
        ("FROM ./Modelfile\n", "Modelfile is not a GGUF file"),
        ("FROM ./empty\n", "no .gguf or .safetensors file in "),
        ("FROM ./tensors\n", "FROM ./tensors: config.json is missing beside the safetensors in "),
        ("FROM ./tensors/model.safetensors\n", "is not a GGUF file; name its directory, which describes the model"),
        ("FROM tiny\nADAPTER ./adapter\n", "ADAPTER ./adapter: an adapter in safetensors must be converted"),
        ("FROM ./p-00002-of-00003.gguf\n", ": p-00001-of-00003.gguf, p-00003-of-00003.gguf"),
        ("FROM ./w.gguf\nFROM ./sub/w.gguf\n", "have the same name"),
        ("FROM tiny\nDRAFT x\n", "DRAFT models are not supported"),
        ("FRM tiny\n", 'Modelfile: (line 1): command must be one of "from"'),
        ("FROM tiny\nPARAMETER temperature hot\n", "invalid float value [hot]"),
        ("SYSTEM x\n", "no FROM line"),
    ],
)
def test_what_is_refused_before_anything_is_sent(cli: Cli, folder: Path, text: str, told: str) -> None:
    (folder / "empty").mkdir()
    (folder / "tensors").mkdir()
    (folder / "tensors" / "model.safetensors").write_bytes(b"x")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    (folder / "p-00002-of-00003.gguf").write_bytes(WEIGHTS)
    (folder / "sub").mkdir()
    (folder / "sub" / "w.gguf").write_bytes(WEIGHTS)
    (folder / "Modelfile").write_text(text)
    done = cli("create", "mine")
    assert done.code == 1
    assert told in done.err
    assert not cli.node.asked


def test_a_modelfile_that_is_not_there(cli: Cli, folder: Path) -> None:
    assert "can't read the Modelfile nowhere" in cli("create", "mine", "-f", "nowhere").err


def test_refusals_of_the_node(cli: Cli, folder: Path) -> None:
    (folder / "Modelfile").write_text("FROM w.gguf\n")
    cli.node.answers["POST /api/create"] = stream({"status": "parsing GGUF"}, {"error": "w.gguf is truncated"})
    assert cli("create", "mine").err.endswith("Error: w.gguf is truncated\n")
    cli.node.answers["POST /api/create"] = stream({"status": "parsing GGUF"})
    assert "broke off before the model was made" in cli("create", "mine").err
    cli.node.answers[f"POST /api/blobs/{DIGEST}"] = error(507, "no space left")
    assert cli("create", "mine").err.endswith("Error: no space left\n")
    cli.node.answers[f"HEAD /api/blobs/{DIGEST}"] = Reply(400)
    assert cli("create", "mine").code == 1


@pytest.mark.parametrize("content", [WEIGHTS[:10], WEIGHTS + b"more"])
def test_a_file_that_changes_while_it_is_sent(cli: Cli, folder: Path, content: bytes) -> None:
    def change(_: Asked) -> Reply:
        (folder / "w.gguf").write_bytes(content)
        return Reply(404)

    cli.node.answers[f"HEAD /api/blobs/{DIGEST}"] = change
    done = cli("create", "mine")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "Error: w.gguf changed while it was read; try again when it is complete"


def test_bars_on_a_terminal(cli: Cli, folder: Path) -> None:
    cli.node.answers["POST /api/create"] = stream(
        {"status": "parsing GGUF"},
        {"status": "copying", "total": 10, "completed": 5},
        {"status": "copying", "total": 10, "completed": 10},
        {"status": "success"},
    )
    terminal = Pty("create", "mine", "-f", str(folder / "Modelfile"), node=cli.node.url, home=cli.home)
    try:
        terminal.expect("can't read the Modelfile")
        assert terminal.close() == 1
    finally:
        terminal.end()
    (folder / "Modelfile").write_text("FROM w.gguf\n")
    terminal = Pty("create", "mine", "-f", str(folder / "Modelfile"), node=cli.node.url, home=cli.home)
    try:
        for shown in ("sending w.gguf", "copying", "success"):
            terminal.expect(shown)
        assert terminal.close() == 0
    finally:
        terminal.end()
