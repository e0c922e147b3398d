"""Models made by /api/create and the command line: quantised, of parts, of a directory of safetensors."""

import contextlib
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from nodes import LIMIT_S, Node, eventually, request

import hf_directory as hf
from models import chain_text, write_llama
from split_files import split


@pytest.fixture(autouse=True)
def tidy(shared_node: Node) -> Iterator[None]:
    """The node has the models that it had."""
    before = shared_node.models()
    yield
    for name in shared_node.models() - before:
        assert shared_node.ask("DELETE", "/api/delete", {"model": name}).status_code == 200


def sent(node: Node, path: Path) -> str:
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    with path.open("rb") as file:
        assert request("POST", f"{node.url}/api/blobs/{digest}", content=file).status_code in (200, 201)
    return digest


def create(node: Node, **body: Any) -> None:
    reply = node.ask("POST", "/api/create", {**body, "stream": False})
    assert reply.json() == {"status": "success"}, reply.text


def answer(node: Node, model: str, prompt: str, count: int) -> str:
    options = {"num_predict": count, "temperature": 0}
    body = {"model": model, "prompt": prompt, "raw": True, "options": options, "stream": False}
    reply = node.ask("POST", "/api/generate", body)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["response"])


def level(node: Node, model: str) -> str:
    listed = {each["name"]: each for each in node.get("/api/tags").json()["models"]}
    shown = node.ask("POST", "/api/show", {"model": model}).json()["details"]["quantization_level"]
    assert listed[f"{model}:latest"]["details"]["quantization_level"] == shown
    return str(shown)


def cli(node: Node, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [*node.command()[:3], *arguments]
    return subprocess.run(
        command, cwd=folder, env=node.env(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@pytest.mark.parametrize("quantize", ["q8_0", "q4_K_M", "q4_K_S"])
def test_the_packaged_model_quantised(shared_node: Node, quantize: str) -> None:
    name = f"tiny-{quantize.lower()}"
    create(shared_node, model=name, **{"from": "tiny"}, quantize=quantize)
    assert level(shared_node, name) == quantize.upper()
    sizes = {each["name"]: each["size"] for each in shared_node.get("/api/tags").json()["models"]}
    assert sizes[f"{name}:latest"] < 0.6 * sizes["tiny:latest"]
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "options": {"temperature": 0},
        "stream": False,
    }
    assert "Paris" in shared_node.ask("POST", "/api/chat", body).json()["message"]["content"]


def test_quantising_what_is_quantised_already(shared_node: Node) -> None:
    create(shared_node, model="small", **{"from": "tiny"}, quantize="q8_0")
    reply = shared_node.ask(
        "POST", "/api/create", {"model": "x", "from": "small", "quantize": "q4_K_M", "stream": False}
    )
    assert (reply.status_code, reply.json()) == (
        400,
        {"error": "quantization is only supported for F16, BF16 and F32 models"},
    )


def test_quantising_on_the_command_line(shared_node: Node, tmp_path: Path) -> None:
    write_llama(tmp_path / "w.gguf", chain=True)
    done = cli(shared_node, tmp_path, "create", "by-hand", "-q", "q8_0")
    assert done.returncode == 0, done.stderr
    assert "quantizing F16 model to Q8_0" in done.stderr
    assert level(shared_node, "by-hand") == "Q8_0"
    assert answer(shared_node, "by-hand", "a", 10) == chain_text("a", 10)


def begun(node: Node, folder: Path) -> "contextlib.AbstractContextManager[psutil.Process]":
    """Within it a model is quantised, which takes a while; the process that does it. Leaving is a client that goes."""
    digest = sent(node, write_llama(folder / "large.gguf", width=512, layers=16))

    @contextlib.contextmanager
    def working() -> Iterator[psutil.Process]:
        body = {"model": "large", "files": {"large.gguf": digest}, "quantize": "q4_K_M"}
        with httpx.stream("POST", f"{node.url}/api/create", json=body, timeout=LIMIT_S) as reply:
            lines = (json.loads(line) for line in reply.iter_lines())
            assert next(line for line in lines if line.get("completed"))["status"].startswith("quantizing")
            (child,) = node.children()
            yield child

    return working()


def test_a_client_that_leaves_ends_the_work(new_node: Callable[..., Node], tmp_path: Path) -> None:
    node = new_node()
    with begun(node, tmp_path) as child:
        pass
    eventually("the child has ended", lambda: ended(child))
    blobs = Path(node.env()["OLLAMA_MODELS"]) / "blobs"
    eventually("what it wrote is gone", lambda: not list(blobs.glob("sha256-incoming-*")))
    assert node.models() == {"tiny:latest"}


def test_a_node_that_is_killed_takes_the_work_with_it(new_node: Callable[..., Node], tmp_path: Path) -> None:
    node = new_node()
    with contextlib.suppress(httpx.TransportError), begun(node, tmp_path) as child:
        node.kill()
        eventually("the child has ended", lambda: ended(child))
    assert ended(child)
    node.start()
    assert node.models() == {"tiny:latest"}


def ended(child: psutil.Process) -> bool:
    try:
        return child.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_parts_of_a_gguf(shared_node: Node, tmp_path: Path) -> None:
    parts = split(write_llama(tmp_path / "whole.gguf", chain=True), 3)
    (tmp_path / "whole.gguf").unlink()
    create(shared_node, model="of-parts", files={name: sent(shared_node, path) for name, path in parts.items()})
    assert answer(shared_node, "of-parts", "a", 10) == chain_text("a", 10)
    second = list(parts)[1]
    (tmp_path / "Modelfile").write_text(f"FROM ./{second}\n")
    assert cli(shared_node, tmp_path, "create", "of-parts-by-hand").returncode == 0
    shown = [
        shared_node.ask("POST", "/api/show", {"model": name}).json()["model_info"]
        for name in ("of-parts", "of-parts-by-hand")
    ]
    assert shown[0] == shown[1]
    parts[second].unlink()
    (tmp_path / "Modelfile").write_text(f"FROM ./{next(iter(parts))}\n")
    done = cli(shared_node, tmp_path, "create", "broken")
    assert done.returncode == 1
    assert f"parts of it are missing in {tmp_path}: {second}" in done.stderr


def test_a_part_alone(shared_node: Node, tmp_path: Path) -> None:
    first, path = next(iter(split(write_llama(tmp_path / "whole.gguf"), 2).items()))
    body = {"model": "x", "files": {first: sent(shared_node, path)}, "stream": False}
    reply = shared_node.ask("POST", "/api/create", body)
    assert (reply.status_code, reply.json()) == (
        400,
        {"error": f"{first} is one of 2 parts, and these are missing: whole-00002-of-00002.gguf"},
    )


@pytest.mark.parametrize("quantize", ["", "q4_K_M"])
def test_a_directory_of_safetensors(shared_node: Node, tmp_path: Path, quantize: str) -> None:
    """What it answers is compared with transformers' way of computing it in adapters/test_gguf_maker.py."""
    config = hf.config()
    hf.write(tmp_path, config, hf.weights(config), "BF16", files=2)
    arguments = ["-q", quantize] if quantize else []
    done = cli(shared_node, tmp_path, "create", "converted", *arguments)
    assert done.returncode == 0, done.stderr
    assert "converting model" in done.stderr
    assert level(shared_node, "converted") == (quantize.upper() or "BF16")
    assert answer(shared_node, "converted", "hello", 5)


def test_other_architectures(shared_node: Node, tmp_path: Path) -> None:
    config = hf.config("PhiMoEForCausalLM")
    hf.write(tmp_path, config, hf.weights(config))
    done = cli(shared_node, tmp_path, "create", "strange")
    assert done.returncode == 1
    assert "PhiMoEForCausalLM can't be converted here; convert it with llama.cpp's convert_hf_to_gguf.py" in done.stderr
