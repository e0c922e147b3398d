"""The files that a GGUF is made of: opened, and their headers read."""

import mmap
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ollamamax.adapters.disk import explained
from ollamamax.core.errors import GgufError
from ollamamax.core.modelspec import assembly as assemblies
from ollamamax.core.modelspec.assembly import Assembly
from ollamamax.core.modelspec.gguf_layout import Layout, layout
from ollamamax.core.modelspec.quantization import quantized


def assembled(paths: Mapping[str, str], quantize: str, stack: ExitStack) -> tuple[Assembly, dict[str, int]]:
    """What is to be made, and the descriptors of the files by name; the stack closes them.

    Raises: BadRequest, GgufError, StoreError.
    """
    files: dict[str, int] = {}
    for name, path in paths.items():
        with explained(Path(path)):
            files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, files[name])
    layouts = {name: _layout(name, file) for name, file in files.items()}
    made = assemblies.of_ggufs(layouts)
    if quantize:
        facts = next(found.facts for found in layouts.values() if found.facts.architecture)
        made = quantized(made, facts, quantize)
    return made, files


def _layout(name: str, file: int) -> Layout:
    size = os.fstat(file).st_size
    try:
        if size == 0:  # mmap has no empty maps
            return layout(b"", 0)
        return layout(memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ)), size)
    except GgufError as error:
        raise type(error)(f"{name}: {error}") from error
