"""The files that a GGUF is made of: opened, and their headers read."""

import mmap
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from ollamamax.adapters.disk import explained
from ollamamax.core.errors import BadRequest, GgufError
from ollamamax.core.modelspec import assembly as assemblies
from ollamamax.core.modelspec import hf_model, safetensors
from ollamamax.core.modelspec.assembly import Assembly
from ollamamax.core.modelspec.gguf import parse
from ollamamax.core.modelspec.gguf_layout import Layout, layout
from ollamamax.core.modelspec.quantization import quantized
from ollamamax.core.modelspec.safetensors import StoredTensor

_MAX_TEXT_BYTES: Final = 256 << 20


def assembled(paths: Mapping[str, str], quantize: str, stack: ExitStack) -> tuple[Assembly, dict[str, int]]:
    """What is to be made, and the descriptors of the files by name; the stack closes them.

    Raises: BadRequest, GgufError, StoreError.
    """
    files: dict[str, int] = {}
    for name, path in paths.items():
        with explained(Path(path)):
            files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, files[name])
    if hf_model.are_safetensors(files):
        made = _of_directory(files)
    else:
        made = assemblies.of_ggufs({name: _layout(name, file) for name, file in files.items()})
    if quantize:
        head = made.header()
        made = quantized(made, parse(head, made.size_bytes()), quantize)
    return made, files


def _of_directory(files: Mapping[str, int]) -> Assembly:
    """Raises: BadRequest, GgufError."""
    texts: dict[str, bytes] = {}
    tensors: dict[str, list[StoredTensor]] = {}
    for path, file in files.items():
        name = path.rpartition("/")[2]
        if name in hf_model.READ:
            texts[name] = _whole(path, file)
    for path in hf_model.weights_among(files):
        tensors[path] = _listed(path, files[path])
    return hf_model.of_directory(texts, tensors)


def _listed(name: str, file: int) -> list[StoredTensor]:
    size = os.fstat(file).st_size
    try:
        length = safetensors.header_bytes(os.pread(file, safetensors.LENGTH_BYTES, 0), size)
        return safetensors.tensors(os.pread(file, length, safetensors.LENGTH_BYTES), size)
    except GgufError as error:
        raise type(error)(f"{name}: {error}") from error


def _whole(name: str, file: int) -> bytes:
    size = os.fstat(file).st_size
    if size > _MAX_TEXT_BYTES:
        raise BadRequest(f"{name} has {size} bytes, which is too much for its purpose")
    return os.pread(file, size, 0)


def _layout(name: str, file: int) -> Layout:
    size = os.fstat(file).st_size
    try:
        if size == 0:  # mmap has no empty maps
            return layout(b"", 0)
        return layout(memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ)), size)
    except GgufError as error:
        raise type(error)(f"{name}: {error}") from error
