"""The weights of a model that is created: the GGUFs that its files are, or that are made of them."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from msgspec import Struct

from ollamamax.core.errors import BadRequest, BlobNotFound, GgufError, GgufForeign, GgufUnsupported
from ollamamax.core.modelspec import digests, manifest, quantization, split_gguf
from ollamamax.core.modelspec.architectures import ARCHITECTURES
from ollamamax.core.modelspec.manifest import Layer
from ollamamax.core.types import GgufFacts, GgufJob, Progress
from ollamamax.ports import BlobStore, GgufMaker
from ollamamax.services.patience import told

_PROJECTOR_ARCHITECTURE: Final = "clip"
_SAFETENSORS: Final = ".safetensors"
_CONVERT: Final = "convert it to GGUF first (llama.cpp's convert_hf_to_gguf.py)"
_CONVERT_ADAPTER: Final = "convert it to GGUF first (llama.cpp's convert_lora_to_gguf.py)"
_WORK_DIGEST: Final = "0000000000000000000"
"""Stands in progress where a blob has no digest yet, as with Ollama."""


class Gguf(Struct, frozen=True):
    """A GGUF of the store. files: its parts by name, one where it is whole.  facts: of the first part."""

    files: dict[str, str]
    facts: GgufFacts

    @property
    def name(self) -> str:
        """What errors call it."""
        return min(self.files)


class Weights:
    """For one creation. `made`: the blobs that were added, of use or not."""

    def __init__(self, store: BlobStore, maker: GgufMaker) -> None:
        self._store = store
        self._maker = maker
        self._paths: dict[str, str] = {}
        self.made: list[str] = []
        self.layer = Layer("", "", 0)
        self.facts: GgufFacts | None = None

    async def read(self, files: Mapping[str, str]) -> tuple[list[Gguf], list[Gguf]]:
        """(weights, projectors) among these files; parts of one GGUF come as one.

        Raises: BadRequest, GgufError, StoreError.
        """
        weights: list[Gguf] = []
        projectors: list[Gguf] = []
        parts: dict[str, GgufFacts] = {}
        for name, digest in files.items():
            facts = await self._facts(name, digest, _CONVERT)
            if split_gguf.count_of(facts) > 1:
                parts[name] = facts
                continue
            self._check(name, facts)
            if is_adapter(facts):
                raise BadRequest(f"{name} is an adapter: give it as one, beside the model that it adapts")
            found = projectors if facts.architecture == _PROJECTOR_ARCHITECTURE else weights
            found.append(Gguf({name: digest}, facts))
        if parts:
            names = split_gguf.in_order(parts)
            self._check(names[0], parts[names[0]])
            weights.append(Gguf({name: files[name] for name in names}, parts[names[0]]))
        return weights, projectors

    async def adapter(self, name: str, digest: str) -> Layer:
        """Raises: BadRequest, GgufError, StoreError."""
        facts = await self._facts(name, digest, _CONVERT_ADAPTER)
        self._check(name, facts)
        if not is_adapter(facts):
            raise BadRequest(f"{name} is no adapter: its general.type is not 'adapter'")
        return layer_of(manifest.ADAPTER, digest, facts)

    async def bring(self, gguf: Gguf, quantize: str) -> AsyncGenerator[Progress, None]:
        """Make one whole GGUF of it, in that quantisation; after that `layer` and `facts` tell of it.

        quantize: "" = as it is. Raises: BadRequest, Unsupported, GgufError, StoreError, EngineError.
        """
        target = quantization.normalised(quantize)
        kind = gguf.facts.file_type
        is_other = bool(target) and target != kind
        if is_other and kind not in quantization.WHOLE:
            raise BadRequest("quantization is only supported for F16, BF16 and F32 models")
        if not is_other and len(gguf.files) == 1:
            self.facts = gguf.facts
            self.layer = layer_of(manifest.MODEL, gguf.files[gguf.name], gguf.facts)
            return
        status = f"quantizing {kind} model to {target}" if is_other else f"merging {len(gguf.files)} parts"
        async with aclosing(self._make(gguf.files, target if is_other else "", status)) as steps:
            async for step in steps:
                yield step

    async def convert(self, files: Mapping[str, str], quantize: str) -> AsyncGenerator[Progress, None]:
        """Make a GGUF of what a directory of safetensors holds; after that `layer` and `facts` tell of it.

        Raises: as bring().
        """
        for name, digest in files.items():
            if await self._store.blob_size(digest) is None:
                raise _absent(name, digest)
        async with aclosing(self._make(files, quantization.normalised(quantize), "converting model")) as steps:
            async for step in steps:
                yield step

    async def _make(self, files: Mapping[str, str], quantize: str, status: str) -> AsyncGenerator[Progress, None]:
        paths = {name: self._store.blob_path(digests.normalise(digest)) for name, digest in files.items()}
        done = 0

        async def counted(body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
            nonlocal done
            async with aclosing(body):
                async for piece in body:
                    done += len(piece)
                    yield piece

        async with self._maker.make(GgufJob(paths, quantize)) as making:
            work = asyncio.ensure_future(self._store.add_blob(counted(making.body()), making.size_bytes))
            try:
                async with aclosing(told(work, status, _WORK_DIGEST, making.size_bytes, lambda: done)) as steps:
                    async for step in steps:
                        yield step
            finally:
                work.cancel()
                await asyncio.wait([work])
                if not work.cancelled() and work.exception() is None and work.result()[1]:
                    self.made.append(work.result()[0])
        digest = work.result()[0]
        yield Progress("verifying conversion")
        self.facts = await self._store.gguf_facts(digest)
        self._check(status, self.facts)
        self.layer = layer_of(manifest.MODEL, digest, self.facts)

    async def _facts(self, name: str, digest: str, remedy: str) -> GgufFacts:
        try:
            return await self._store.gguf_facts(digests.normalise(digest))
        except BlobNotFound:
            raise _absent(name, digest) from None
        except GgufForeign as error:
            helps = name.endswith((".bin", ".pt", _SAFETENSORS)) or "safetensors" in str(error)
            hint = f"; {remedy}" if helps else ""
            raise GgufForeign(f"{name}: supplied file was not in GGUF format: {error}{hint}") from error
        except GgufError as error:
            raise type(error)(f"{name}: {error}") from error

    def _check(self, name: str, facts: GgufFacts) -> None:
        """Raises: GgufUnsupported for what the engine can't run."""
        if facts.architecture not in ARCHITECTURES:
            raise GgufUnsupported(
                f"{name}: unknown model architecture '{facts.architecture}': this version's engine can't run it"
            )
        if not facts.tensors:
            raise GgufUnsupported(f"{name} holds no tensors: it is a vocabulary or a header alone")


def is_adapter(facts: GgufFacts) -> bool:
    """Whether it only changes another model."""
    return facts.metadata.get("general.type") == "adapter"


def layer_of(media_type: str, digest: str, facts: GgufFacts) -> Layer:
    """A layer for a GGUF. Raises: BadRequest for what is no digest."""
    return Layer(media_type, digests.normalise(digest), facts.file_bytes)


def _absent(name: str, digest: str) -> BadRequest:
    normal = digests.normalise(digest)
    return BadRequest(f"{name}: blob {normal} is not in the store; send it to /api/blobs/{normal} first")
