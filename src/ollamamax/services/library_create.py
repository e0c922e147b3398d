"""The work of /api/create: from uploaded blobs, or from another model, to the manifest of a new one."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from ollamamax.core.errors import BadRequest, BlobNotFound, GgufError, GgufForeign, GgufUnsupported, Unsupported
from ollamamax.core.modelspec import builtin_templates, digests, manifest
from ollamamax.core.modelspec.architectures import ARCHITECTURES
from ollamamax.core.modelspec.capabilities import unknown_form
from ollamamax.core.modelspec.manifest import Config, Layer
from ollamamax.core.modelspec.parameters import checked
from ollamamax.core.modelspec.template import parse as parse_template
from ollamamax.core.types import CreateRequest, GgufFacts, Progress
from ollamamax.ports import BlobStore
from ollamamax.services.library_show import Parts

_PROJECTOR_ARCHITECTURE: Final = "clip"
_WHOLE: Final = ("F32", "F16", "BF16")
_QUANTIZATIONS: Final = (*_WHOLE, "Q4_K_S", "Q4_K_M", "Q8_0")
_CONVERT: Final = "convert it to GGUF first (llama.cpp's convert_hf_to_gguf.py)"

BaseOf = Callable[[str], Awaitable[tuple[str, Parts]]]
"""A model to build on, by the name as it was asked for: its short name and what it consists of."""


class Creator:
    """One creation. After `layers` has ended, `manifest` holds the bytes; `created` names the blobs that were added."""

    def __init__(self, store: BlobStore, base_of: BaseOf) -> None:
        self._store = store
        self._base_of = base_of
        self.manifest = b""
        self.created: list[str] = []
        self._jinja = ""

    async def layers(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        """The steps. What can be known beforehand is checked before the first one.

        Raises: BadRequest, InvalidOption, Unsupported, TemplateError, ModelNotFound, BlobNotFound, GgufError,
        StoreError.
        """
        parameters = check(request)
        kept, config, inherited = await self._base(request.from_model)
        if request.files or request.adapters:
            yield Progress("parsing GGUF")
        if request.files:
            kept, config = await self._with_files(kept, config, request.files)
            if request.template is None and (known := builtin_templates.detect(self._jinja)) is not None:
                yield Progress(f"using autodetected template {known.name}")
                request = msgspec.structs.replace(request, template=known.text)
                parameters = {**known.parameters, **parameters}
        for name, digest in request.adapters.items():
            kept = [*_without(kept, manifest.ADAPTER), await self._adapter(name, digest)]
        _check_quantization(request.quantize, config.file_type)
        config = _told(config, request)
        if parameters:
            parameters = {**inherited, **parameters}
        texts = _texts(request, parameters)
        for _, _, replaced in texts:
            kept = _without(kept, *replaced)
        for layer in kept:
            yield Progress(f"using existing layer {layer.digest}")
        layers = kept
        for media_type, data, _ in texts:
            if data:
                layer, is_new = await self._put(media_type, data)
                layers = [*layers, layer]
                yield Progress(f"{'creating new' if is_new else 'using existing'} layer {layer.digest}")
        layer, is_new = await self._put(manifest.CONFIG_TYPE, manifest.encode_config(config, layers))
        yield Progress(f"{'creating new' if is_new else 'using existing'} layer {layer.digest}")
        self.manifest = manifest.encode(layer, layers)

    async def _base(self, from_model: str) -> tuple[list[Layer], Config, dict[str, Any]]:
        """Layers, config and parameters of the model to build on; nothing where there is none."""
        if not from_model:
            return [], Config(), {}
        name, base = await self._base_of(from_model)
        layers = [msgspec.structs.replace(layer, from_model=name) for layer in base.manifest.layers]
        return layers, base.config, base.parameters

    async def _with_files(self, kept: list[Layer], config: Config, files: dict[str, str]) -> tuple[list[Layer], Config]:
        """Weights and a projector make a new model; a projector alone joins the model that is built on."""
        weights: list[tuple[Layer, GgufFacts]] = []
        projectors: list[tuple[Layer, GgufFacts]] = []
        for name, digest in files.items():
            facts = await self._facts(name, digest)
            if _is_adapter(facts):
                raise BadRequest(f"{name} is an adapter: give it as one, beside the model that it adapts")
            if facts.architecture == _PROJECTOR_ARCHITECTURE:
                projectors.append((_layer(manifest.PROJECTOR, digest, facts), facts))
            else:
                weights.append((_layer(manifest.MODEL, digest, facts), facts))
        if len(weights) > 1 or len(projectors) > 1:
            raise BadRequest("more than one GGUF of a kind was given; merge split files into one first")
        if not weights and not kept:
            raise BadRequest("no files provided to convert: a projector needs the GGUF of its model beside it")
        if weights and kept:
            raise BadRequest("give weights or a model to build on, not both")
        if weights:
            config = manifest.config_of(weights[0][1], projectors[0][1] if projectors else None)
            self._jinja = weights[0][1].chat_template
        else:
            kept = _without(kept, manifest.PROJECTOR)
        return [*(layer for layer, _ in weights), *kept, *(layer for layer, _ in projectors)], config

    async def _adapter(self, name: str, digest: str) -> Layer:
        facts = await self._facts(name, digest)
        if not _is_adapter(facts):
            raise BadRequest(f"{name} is no adapter: its general.type is not 'adapter'")
        return _layer(manifest.ADAPTER, digest, facts)

    async def _facts(self, name: str, digest: str) -> GgufFacts:
        normal = digests.normalise(digest)
        try:
            facts = await self._store.gguf_facts(normal)
        except BlobNotFound:
            raise BadRequest(
                f"{name}: blob {normal} is not in the store; send it to /api/blobs/{normal} first"
            ) from None
        except GgufForeign as error:
            remedy = f"; {_CONVERT}" if name.endswith((".bin", ".pt")) or "safetensors" in str(error) else ""
            raise GgufForeign(f"{name}: supplied file was not in GGUF format: {error}{remedy}") from error
        except GgufError as error:
            raise type(error)(f"{name}: {error}") from error
        if facts.architecture not in ARCHITECTURES:
            raise GgufUnsupported(
                f"{name}: unknown model architecture '{facts.architecture}': this version's engine can't run it"
            )
        if not facts.tensors:
            raise GgufUnsupported(f"{name} holds no tensors: it is a vocabulary or a header alone")
        parts = facts.metadata.get("split.count", 0)
        if isinstance(parts, int) and parts > 1:
            raise BadRequest(
                f"{name} is one of {parts} parts; merge them into one file first (llama-gguf-split --merge)"
            )
        return facts

    async def _put(self, media_type: str, data: bytes) -> tuple[Layer, bool]:
        digest, is_new = await self._store.put_bytes(data)
        if is_new:
            self.created.append(digest)
        return Layer(media_type, digest, len(data)), is_new


async def discard(store: BlobStore, unwanted: Iterable[str]) -> None:
    """Remove blobs. Raises: StoreError."""
    for digest in unwanted:
        await store.delete_blob(digest)


def check(request: CreateRequest) -> dict[str, Any]:
    """What is wrong with the request by itself; the parameters in the form in which they are kept.

    Raises: BadRequest, InvalidOption, TemplateError.
    """
    if not request.from_model and not request.files:
        raise BadRequest("neither 'from' or 'files' was specified")
    for name, digest in (*request.files.items(), *request.adapters.items()):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise BadRequest("file path must be relative")
        digests.normalise(digest)
    if len(request.adapters) > 1:
        raise BadRequest("only one adapter is currently supported")
    if request.quantize and _quantization(request.quantize) not in _QUANTIZATIONS:
        raise BadRequest(
            f"unsupported quantization type {request.quantize.upper()} - supported types are F32, F16, Q4_K_S, Q4_K_M, "
            "Q8_0"
        )
    if problem := unknown_form(request.renderer or "", request.parser or ""):
        raise BadRequest(problem)
    if request.template:
        parse_template(request.template)
    return checked(request.parameters)


def _quantization(asked: str) -> str:
    upper = asked.upper()
    return "Q4_K_M" if upper == "Q4_K" else upper


def _check_quantization(asked: str, file_type: str) -> None:
    """Raises: BadRequest, Unsupported unless the weights are of that type already."""
    if not asked or _quantization(asked) == file_type:
        return
    if file_type not in _WHOLE:
        raise BadRequest("quantization is only supported for F16, BF16 and F32 models")
    raise Unsupported(
        f"can't quantize to {asked}: the engine package brings no quantizer; quantize the GGUF first "
        "(llama.cpp's llama-quantize), then create from the result"
    )


def _told(config: Config, request: CreateRequest) -> Config:
    """The config with what the request says of it."""
    said = {"renderer": request.renderer, "parser": request.parser, "requires": request.requires}
    return msgspec.structs.replace(config, **{name: value for name, value in said.items() if value})


def _texts(request: CreateRequest, parameters: dict[str, Any]) -> list[tuple[str, bytes, tuple[str, ...]]]:
    """What the request says beside the weights: (media type, content or b"" for none, media types that it replaces)."""
    said: list[tuple[str, bytes, tuple[str, ...]]] = []
    if request.template is not None:
        replaced = (manifest.TEMPLATE, manifest.OLD_TEMPLATE)
        said.append((manifest.TEMPLATE, request.template.encode(), replaced))
    if request.system is not None:
        said.append((manifest.SYSTEM, request.system.encode(), (manifest.SYSTEM,)))
    if parameters:
        said.append((manifest.PARAMS, manifest.encode_parameters(parameters), (manifest.PARAMS,)))
    if request.messages is not None:
        data = manifest.encode_messages(request.messages) if request.messages else b""
        said.append((manifest.MESSAGES, data, (manifest.MESSAGES,)))
    said.extend((manifest.LICENSE, text.encode(), ()) for text in request.licenses)
    return said


def _layer(media_type: str, digest: str, facts: GgufFacts) -> Layer:
    return Layer(media_type, digests.normalise(digest), facts.file_bytes)


def _is_adapter(facts: GgufFacts) -> bool:
    return facts.metadata.get("general.type") == "adapter"


def _without(layers: list[Layer], *media_types: str) -> list[Layer]:
    return [layer for layer in layers if layer.mediaType not in media_types]
