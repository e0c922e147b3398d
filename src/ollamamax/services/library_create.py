"""The work of /api/create: from uploaded blobs, or from another model, to the manifest of a new one."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from ollamamax.core.errors import BadRequest, Conflict
from ollamamax.core.modelspec import builtin_templates, digests, manifest, quantization
from ollamamax.core.modelspec.capabilities import unknown_form
from ollamamax.core.modelspec.hf_model import are_safetensors
from ollamamax.core.modelspec.manifest import Config, Layer
from ollamamax.core.modelspec.parameters import checked
from ollamamax.core.modelspec.template import parse as parse_template
from ollamamax.core.types import CreateRequest, GgufFacts, Progress
from ollamamax.ports import BlobStore, GgufMaker
from ollamamax.services.library_show import Parts
from ollamamax.services.library_weights import Gguf, Weights, layer_of

_NOT_BOTH: Final = "give weights or a model to build on, not both"

BaseOf = Callable[[str], Awaitable[tuple[str, Parts]]]
"""A model to build on, by the name as it was asked for: its short name and what it consists of."""


class Creator:
    """One creation: `prepare`, then `layers`. After that `manifest` holds the bytes; `created` names the blobs that
    layers() added, `made` those that prepare() did.
    """

    def __init__(self, store: BlobStore, maker: GgufMaker, base_of: BaseOf) -> None:
        self._store = store
        self._base_of = base_of
        self._weights = Weights(store, maker)
        self.manifest = b""
        self.created: list[str] = []
        self._jinja = ""
        self._kept: list[Layer] = []
        self._config = Config()
        self._inherited: dict[str, Any] = {}
        self._base_weights: Gguf

    @property
    def made(self) -> list[str]:
        """Weights that were made for this model."""
        return self._weights.made

    async def prepare(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        """The steps of finding or making the weights. What can be known beforehand is checked before the first one.

        Raises: BadRequest, InvalidOption, Unsupported, TemplateError, ModelNotFound, GgufError, StoreError,
        EngineError.
        """
        check(request)
        await self._base(request.from_model)
        if are_safetensors(request.files):
            steps = self._converted(request)
        else:
            if request.files or request.adapters:
                yield Progress("parsing GGUF")
            steps = self._with_files(request)
        async with aclosing(steps):
            async for step in steps:
                yield step
        for name, digest in request.adapters.items():
            self._kept = [*_without(self._kept, manifest.ADAPTER), await self._weights.adapter(name, digest)]

    async def layers(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        """The steps of writing what belongs to the weights. Raises: Conflict, TemplateError, StoreError."""
        for layer in self._kept:
            if await self._store.blob_size(layer.digest) is None:
                raise Conflict(f"blob {layer.digest} was removed while the model was made; try again")
        parameters = checked(request.parameters)
        if request.template is None and (known := builtin_templates.detect(self._jinja)) is not None:
            yield Progress(f"using autodetected template {known.name}")
            request = msgspec.structs.replace(request, template=known.text)
            parameters = {**known.parameters, **parameters}
        config = _told(self._config, request)
        if parameters:
            parameters = {**self._inherited, **parameters}
        texts = _texts(request, parameters)
        kept = self._kept
        for _, _, replaced in texts:
            kept = _without(kept, *replaced)
        for layer in kept:
            is_new = layer.digest in self.made
            yield Progress(f"{'creating new' if is_new else 'using existing'} layer {layer.digest}")
        layers = kept
        for media_type, data, _ in texts:
            if data:
                layer, is_new = await self._put(media_type, data)
                layers = [*layers, layer]
                yield Progress(f"{'creating new' if is_new else 'using existing'} layer {layer.digest}")
        layer, is_new = await self._put(manifest.CONFIG_TYPE, manifest.encode_config(config, layers))
        yield Progress(f"{'creating new' if is_new else 'using existing'} layer {layer.digest}")
        self.manifest = manifest.encode(layer, layers)

    async def _base(self, from_model: str) -> None:
        """Layers, config and parameters of the model to build on; nothing where there is none."""
        if from_model:
            name, base = await self._base_of(from_model)
            self._kept = [msgspec.structs.replace(layer, from_model=name) for layer in base.manifest.layers]
            self._config, self._inherited = base.config, base.parameters
            self._base_weights = Gguf({name: base.model_digest}, base.facts)

    async def _with_files(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        """Weights and a projector make a new model; a projector alone joins the model that is built on."""
        weights, projectors = await self._weights.read(request.files)
        if len(weights) > 1 or len(projectors) > 1:
            raise BadRequest("more than one GGUF of a kind was given; give one, or all parts of one")
        if not weights and not self._kept:
            raise BadRequest("no files provided to convert: a projector needs the GGUF of its model beside it")
        if weights and self._kept:
            raise BadRequest(_NOT_BOTH)
        if weights or request.quantize:
            gguf = weights[0] if weights else self._base_weights
            async with aclosing(self._weights.bring(gguf, request.quantize)) as steps:
                async for step in steps:
                    yield step
        added = [
            layer_of(manifest.PROJECTOR, digest, found.facts) for found in projectors for digest in found.files.values()
        ]
        if weights:
            self._is_new(projectors[0].facts if projectors else None)
        elif self._weights.facts is not None:
            self._replace()
        if projectors:
            self._kept = _without(self._kept, manifest.PROJECTOR)
        self._kept = [*self._kept, *added]

    async def _converted(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        if self._kept:
            raise BadRequest(_NOT_BOTH)
        async with aclosing(self._weights.convert(request.files, request.quantize)) as steps:
            async for step in steps:
                yield step
        self._is_new(None)

    def _is_new(self, projector: GgufFacts | None) -> None:
        facts = self._weights.facts
        assert facts is not None, "the weights are there"
        self._kept = [self._weights.layer]
        self._config = manifest.config_of(facts, projector)
        self._jinja = facts.chat_template

    def _replace(self) -> None:
        """The base's weights by those that were made of them."""
        facts = self._weights.facts
        assert facts is not None, "the weights are there"
        if self._weights.layer.digest != next(iter(self._base_weights.files.values())):
            self._kept = [self._weights.layer if layer.mediaType == manifest.MODEL else layer for layer in self._kept]
            self._config = msgspec.structs.replace(self._config, file_type=facts.file_type)

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
    quantization.check(request.quantize)
    if problem := unknown_form(request.renderer or "", request.parser or ""):
        raise BadRequest(problem)
    if request.template:
        parse_template(request.template)
    return checked(request.parameters)


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


def _without(layers: list[Layer], *media_types: str) -> list[Layer]:
    return [layer for layer in layers if layer.mediaType not in media_types]
