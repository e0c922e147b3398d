"""The work of /api/create: from uploaded blobs, or from another model, to the manifest of a new one."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from pathlib import PurePosixPath
from typing import Final

from ollamamax.core.errors import BadRequest, BlobNotFound, GgufForeign, GgufUnsupported, Unsupported
from ollamamax.core.modelspec import digests, manifest
from ollamamax.core.modelspec.architectures import ARCHITECTURES
from ollamamax.core.modelspec.manifest import Config, Layer
from ollamamax.core.modelspec.parameters import checked
from ollamamax.core.modelspec.template import parse as parse_template
from ollamamax.core.types import CreateRequest, GgufFacts, Progress
from ollamamax.ports import BlobStore
from ollamamax.services.library_show import Parts

_PROJECTOR_ARCHITECTURE: Final = "clip"

BaseOf = Callable[[str], Awaitable[Parts]]


class Creator:
    """One creation. After `layers` has ended, `manifest` holds the bytes; `created` names the blobs that were added."""

    def __init__(self, store: BlobStore, base_of: BaseOf) -> None:
        self._store = store
        self._base_of = base_of
        self.manifest = b""
        self.created: list[str] = []

    async def layers(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        """The steps. What can be known beforehand is checked before the first one.

        Raises: BadRequest, InvalidOption, Unsupported, TemplateError, ModelNotFound, BlobNotFound, GgufError,
        StoreError.
        """
        parameters = _check(request)
        base = await self._base_of(request.from_model) if request.from_model else None
        kept = [] if base is None else list(base.manifest.layers)
        config = base.config if base is not None else Config()
        if request.files:
            yield Progress("parsing GGUF")
            weights, config = await self._from_files(request.files)
            kept = weights
        for digest in request.adapters.values():
            kept = [*_without(kept, manifest.ADAPTER), await self._layer(manifest.ADAPTER, digest)]
        for layer in kept:
            if layer.mediaType in (manifest.MODEL, manifest.PROJECTOR, manifest.ADAPTER):
                yield Progress(f"using existing layer {layer.digest}")
        fresh: list[Layer] = []
        if parameters and base is not None:
            parameters = {**base.parameters, **parameters}
        for media_type, data, replaced in _texts(request, parameters):
            kept = _without(kept, *replaced)
            if data:
                digest, is_new = await self._put(data)
                fresh.append(Layer(media_type, digest, len(data)))
                yield Progress(f"{'creating new' if is_new else 'using existing'} layer {digest}")
        layers = [*kept, *fresh]
        data = manifest.encode_config(config, layers)
        digest, is_new = await self._put(data)
        yield Progress(f"{'creating new' if is_new else 'using existing'} layer {digest}")
        self.manifest = manifest.encode(Layer(manifest.CONFIG_TYPE, digest, len(data)), layers)

    async def _from_files(self, files: dict[str, str]) -> tuple[list[Layer], Config]:
        """Layers of the weights and the projector, and the config that they make."""
        weights: tuple[Layer, GgufFacts] | None = None
        projector: tuple[Layer, GgufFacts] | None = None
        for name, digest in files.items():
            facts = await self._facts(name, digest)
            if facts.architecture == _PROJECTOR_ARCHITECTURE:
                projector = await self._layer(manifest.PROJECTOR, digest), facts
            elif weights is not None:
                raise BadRequest("more than one GGUF with weights was given; merge split files into one first")
            else:
                weights = await self._layer(manifest.MODEL, digest), facts
        if weights is None:
            raise BadRequest("no files provided to convert: a projector needs the GGUF of its model beside it")
        found = [weights[0]] if projector is None else [weights[0], projector[0]]
        return found, manifest.config_of(weights[1], projector[1] if projector is not None else None)

    async def _facts(self, name: str, digest: str) -> GgufFacts:
        try:
            facts = await self._store.gguf_facts(digests.normalise(digest))
        except GgufForeign as error:
            raise GgufForeign(f"{name}: supplied file was not in GGUF format: {error}") from error
        if facts.architecture not in ARCHITECTURES:
            raise GgufUnsupported(
                f"{name}: unknown model architecture '{facts.architecture}': this version's engine can't run it"
            )
        return facts

    async def _layer(self, media_type: str, digest: str) -> Layer:
        normal = digests.normalise(digest)
        size_bytes = await self._store.blob_size(normal)
        if size_bytes is None:
            raise BlobNotFound(f"blob {normal} is not in the store; upload it to /api/blobs/{normal} first")
        return Layer(media_type, normal, size_bytes)

    async def _put(self, data: bytes) -> tuple[str, bool]:
        digest, is_new = await self._store.put_bytes(data)
        if is_new:
            self.created.append(digest)
        return digest, is_new


async def discard(store: BlobStore, unwanted: Iterable[str]) -> None:
    """Remove blobs. Raises: StoreError."""
    for digest in unwanted:
        await store.delete_blob(digest)


def _check(request: CreateRequest) -> dict[str, object]:
    """What is wrong with the request by itself; the parameters in the form in which they are kept."""
    if not request.from_model and not request.files:
        raise BadRequest("neither 'from' or 'files' was specified")
    for name, digest in (*request.files.items(), *request.adapters.items()):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise BadRequest("file path must be relative")
        digests.normalise(digest)
    if len(request.adapters) > 1:
        raise BadRequest("only one adapter is currently supported")
    if request.quantize:
        raise Unsupported(
            f"can't quantize to {request.quantize}: this version stores models as they are; quantize the GGUF first"
        )
    if request.template:
        parse_template(request.template)
    return checked(request.parameters)


def _texts(request: CreateRequest, parameters: dict[str, object]) -> list[tuple[str, bytes, tuple[str, ...]]]:
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
