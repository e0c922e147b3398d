"""A folder of models that Ollama made: a node lists and runs them as they lie there."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from nodes import Node

from models import chain_text, write_llama
from tmpfs import make_read_only, tmpfs

NAMES = {
    "chain:7b": "registry.ollama.ai/library/chain/7b",
    "someone/Chain:latest": "registry.ollama.ai/someone/Chain/latest",
    "hf.co/someone/chain:Q8_0": "hf.co/someone/chain/Q8_0",
}
LOCK = ".ollamamax.lock"
IMAGE = "application/vnd.ollama.image"


def test_models_are_used_as_they_lie_there(new_node: Callable[..., Node], tmp_path: Path) -> None:
    root = tmp_path / "ollama"
    size_bytes = lay_out(root, tmp_path)
    before = state(root)
    node = new_node(OLLAMA_MODELS=str(root))
    assert_all_run(node)
    now = state(root)
    assert {path: now[path] for path in before} == before
    added = {path: now[path] for path in now.keys() - before.keys()}
    assert size_bytes not in {size for _, size, _, _, _ in added.values()}  # what is there now is the packaged model's
    assert node.ask("DELETE", "/api/delete", {"model": "tiny"}).status_code == 200
    assert {path: found for path, found in state(root).items() if path.name != LOCK} == before


def test_models_of_a_folder_that_can_not_be_written(new_node: Callable[..., Node], tmp_path: Path) -> None:
    lay_out(tmp_path / "made", tmp_path)
    with tmpfs(tmp_path / "ollama", 16 << 20) as root:
        shutil.copytree(tmp_path / "made", root, dirs_exist_ok=True)
        make_read_only(root)
        before, used = state(root), shutil.disk_usage(root).used
        node = new_node(OLLAMA_MODELS=str(root))
        assert_all_run(node)
        assert (state(root), shutil.disk_usage(root).used) == (before, used)
        reply = node.ask("POST", "/api/create", {"model": "x", "from": "chain:7b", "system": "s", "stream": False})
        assert reply.status_code == 500
        assert "give this user the right to read and write it" in reply.json()["error"]
        assert node.stop() == 0


def assert_all_run(node: Node) -> None:
    assert set(NAMES) <= node.models()
    for name in NAMES:
        body = {"model": name, "prompt": "a", "raw": True, "stream": False}
        assert node.ask("POST", "/api/generate", body).json()["response"] == chain_text("a", 7)


def lay_out(root: Path, beside: Path) -> int:
    """Three names of one model, as Ollama lays it out; the bytes of its weights."""
    (root / "blobs").mkdir(parents=True)
    data = write_llama(beside / "w.gguf", chain=True).read_bytes()
    config = b'{"model_format":"gguf","model_family":"llama","model_type":"1M","file_type":"F16"}'
    layers = f'{{"mediaType":"{IMAGE}.model",{blob(root, data)}}}'
    parameters = b'{"num_predict":7,"temperature":0}'
    layers += f',{{"mediaType":"{IMAGE}.params",{blob(root, parameters)}}}'
    manifest = (
        '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        f'"config":{{"mediaType":"application/vnd.docker.container.image.v1+json",{blob(root, config)}}},'
        f'"layers":[{layers}]}}'
    )
    for path in NAMES.values():
        (root / "manifests" / path).parent.mkdir(parents=True)
        (root / "manifests" / path).write_text(manifest)
    return len(data)


def blob(root: Path, data: bytes) -> str:
    """Writes it; its digest and size as a manifest has them."""
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs" / f"sha256-{digest}").write_bytes(data)
    return f'"digest":"sha256:{digest}","size":{len(data)}'


def state(root: Path) -> dict[Path, tuple[int, int, int, int, int]]:
    """Files: their inode, size, room on the disk, time of change and mode."""
    found = {path: path.stat() for path in root.rglob("*") if path.is_file()}
    return {
        path: (each.st_ino, each.st_size, each.st_blocks, each.st_mtime_ns, each.st_mode)
        for path, each in found.items()
    }
