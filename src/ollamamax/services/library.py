"""The models of this node's store: found, listed, shown, created, copied, deleted, pulled, pushed.

One loop owns the store: changes go through one lock; reads see whole manifests, since those are replaced atomically.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final

import structlog

from ollamamax.core.errors import BlobNotFound, ModelNotFound, OllamaMaxError, StoreError
from ollamamax.core.modelspec import manifest, modelfile, names
from ollamamax.core.modelspec.capabilities import capabilities, runs_native
from ollamamax.core.modelspec.manifest import Config, Layer, Manifest
from ollamamax.core.modelspec.parameters import format_parameters
from ollamamax.core.options import parse_options, said
from ollamamax.core.types import (
    CreateRequest,
    ModelDetails,
    ModelName,
    ModelRecord,
    Options,
    Progress,
    ResolvedModel,
    TransferRequest,
)
from ollamamax.ports import BlobStore, Clock, Dice, GgufMaker, Registry, StoredManifest
from ollamamax.services.library_create import Creator, check, discard
from ollamamax.services.library_show import Parts, shown
from ollamamax.services.patience import TransferConfig
from ollamamax.services.pulling import Puller
from ollamamax.services.pushing import Pusher

_LOG: Final = structlog.get_logger(__name__)


class Library:
    """Over a BlobStore. prune: whether blobs that no model uses any more are removed after a change. Close it."""

    def __init__(
        self,
        store: BlobStore,
        registry: Registry,
        maker: GgufMaker,
        clock: Clock,
        dice: Dice,
        prune: bool = True,
        transfers: TransferConfig | None = None,
    ) -> None:
        self._store = store
        self._maker = maker
        self._clock = clock
        self._prune = prune
        self._changing = asyncio.Lock()
        self._puller = Puller(store, registry, dice, self._adopt, transfers or TransferConfig())
        self._pusher = Pusher(store, registry, dice, transfers or TransferConfig())
        self._parts: dict[str, Parts] = {}
        """By digest of the manifest: what never changes under that digest. Those of deleted models are forgotten."""
        self._warned: set[str] = set()
        """Digests of manifests that are known to be of no use: lists are asked for every few seconds."""

    def begin_drain(self) -> None:
        """End what is being pulled, and pull no more; what has come stays."""
        self._puller.begin_drain()

    def reconfigure(self, prune: bool) -> None:
        """Whether blobs that no model uses any more are removed, from the next change on."""
        self._prune = prune

    async def close(self) -> None:
        """The same, and wait for it. Idempotent."""
        await self._puller.close()

    # --- reading ----------------------------------------------------------------------------------------------

    async def resolve(self, model: str) -> ResolvedModel:
        """The model, ready to be launched. model: as the client wrote it.

        Raises: InvalidName, ModelNotFound, StoreError, GgufError.
        """
        stored = await self._find(model, f"model '{model}' not found")
        parts = await self._read(stored)
        facts = parts.facts
        return ResolvedModel(
            name=stored.name,
            digest=stored.digest,
            modified_ns=stored.modified_ns,
            size_bytes=parts.manifest.size_bytes,
            model_path=self._store.blob_path(parts.model_digest),
            model_digest=parts.model_digest,
            facts=facts,
            details=parts.details,
            capabilities=parts.capabilities,
            adapter_paths=self._paths(parts.manifest, manifest.ADAPTER),
            projector_paths=self._paths(parts.manifest, manifest.PROJECTOR),
            template=None if runs_native(parts.config, parts.template, facts.chat_template) else parts.template,
            system=parts.system,
            options=parts.options,
            parameters=parts.parameters,
            messages=parts.messages,
            licenses=parts.licenses,
            renderer=parts.config.renderer,
            parser=parts.config.parser,
        )

    async def records(self) -> list[ModelRecord]:
        """All usable models, newest first; one that can't be read is left out with a warning."""
        found: list[ModelRecord] = []
        stored = await self._store.manifests()
        for one in stored:
            try:
                parts = await self._read(one)
            except OllamaMaxError as error:
                self._warn_once(one, str(error))
                continue
            found.append(
                ModelRecord(
                    name=one.name.short,
                    digest=one.digest,
                    size_bytes=parts.manifest.size_bytes,
                    modified_ns=one.modified_ns,
                    details=parts.details,
                    capabilities=parts.capabilities,
                )
            )
        known = {one.digest for one in stored}
        self._parts = {digest: parts for digest, parts in self._parts.items() if digest in known}
        self._warned &= known
        return found

    async def show(
        self, model: str, verbose: bool = False, system: str | None = None, options: Options | None = None
    ) -> dict[str, Any]:
        """The answer of /api/show. system, options: laid over the model's own, in the Modelfile shown only.

        Raises: InvalidName, ModelNotFound, StoreError, GgufError.
        """
        name = names.parse(model)
        stored = await self._find(model, f"model '{name.short}' not found")
        parts = await self._read(stored)
        facts = await self._store.gguf_facts(parts.model_digest, whole_arrays=True) if verbose else parts.facts
        parameters = {**parts.parameters, **(said(options) if options is not None else {})}
        text = modelfile.write(
            header_name=stored.name.short,
            sources=[self._store.blob_path(parts.model_digest), *self._paths(parts.manifest, manifest.PROJECTOR)],
            adapters=self._paths(parts.manifest, manifest.ADAPTER),
            template=parts.template,
            system=parts.system if system is None else system,
            renderer=parts.config.renderer,
            parser=parts.config.parser,
            requires=parts.config.requires,
            parameters=parameters,
            licenses=parts.licenses,
            messages=parts.messages,
        )
        projectors = [
            await self._store.gguf_facts(layer.digest) for layer in parts.manifest.of_type(manifest.PROJECTOR)
        ]
        return shown(parts, facts, projectors, text, format_parameters(parts.parameters), stored.modified_ns)

    # --- changing ---------------------------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        """Make a model; the steps of the work, the last one "success". What fails changes nothing.

        A model to build on that is not here is pulled first.
        Raises: BadRequest, InvalidName, InvalidOption, ModelNotFound, GgufError, TemplateError, StoreError, and what
        pull() raises.
        """
        name = names.parse(request.model)
        check(request)
        async with aclosing(self._brought(request.from_model)) as steps:
            async for step in steps:
                yield step
        started_ms = self._clock.now_ms()
        creator = Creator(self._store, self._maker, self._base_of)
        try:
            async with aclosing(creator.prepare(request)) as steps:
                async for step in steps:
                    yield step
            async with self._changing, aclosing(self._written(name, request, creator)) as steps:
                async for step in steps:
                    yield step
        except BaseException:
            await self._discard_made(name, creator)
            raise
        _LOG.info("model created", model=name.short, took_ms=round(self._clock.now_ms() - started_ms))
        yield Progress("success")

    async def _written(
        self, name: ModelName, request: CreateRequest, creator: Creator
    ) -> AsyncGenerator[Progress, None]:
        """The steps that need the store to stay as it is."""
        try:
            async with aclosing(creator.layers(request)) as steps:
                async for step in steps:
                    yield step
            yield Progress("writing manifest")
            before = await self._store.manifest(name)
            await self._store.put_manifest(name, creator.manifest)
        except BaseException:
            await self._undo(name, creator)
            raise
        if before is not None:
            await self._remove_unused(before)

    async def _brought(self, model: str) -> AsyncGenerator[Progress, None]:
        """The steps of pulling a model that is to be built on; none if it is here, or no model is."""
        if not model or await self._store.manifest(names.parse(model)) is not None:
            return
        async with aclosing(self.pull(TransferRequest(model))) as steps:
            async for step in steps:
                if step.status != "success":  # that of the model to be made follows
                    yield step

    async def copy(self, source: str, destination: str) -> None:
        """A second name for the same model. Raises: InvalidName, ModelNotFound, StoreError."""
        target = names.parse(destination)
        async with self._changing:
            stored = await self._find(source, f"model '{source}' not found")
            if target.key == stored.name.key:
                return
            before = await self._store.manifest(target)
            await self._store.put_manifest(target, stored.data)
            if before is not None:
                await self._remove_unused(before)

    async def delete(self, model: str) -> None:
        """Remove the name, and what nothing else uses. Raises: InvalidName, ModelNotFound, StoreError."""
        async with self._changing:
            stored = await self._find(model, f"model '{model}' not found")
            await self._store.delete_manifest(stored.name)
            await self._remove_unused(stored)

    def pull(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Get a model from its registry; the last step is "success". Raises: as Puller.pull."""
        return self._puller.pull(request)

    def push(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Put a model into its registry; the last step is "success". Raises: as Pusher.push."""
        return self._pusher.push(request)

    async def has_blob(self, digest: str) -> bool:
        """Whether a whole blob of that digest is here."""
        return await self._store.blob_size(digest) is not None

    async def put_blob(self, digest: str, body: AsyncIterator[bytes]) -> bool:
        """Store it; False if it was here already. Raises: DigestMismatch, DiskFull, StoreError."""
        return await self._store.write_blob(body, digest)

    async def install_builtin(self, name: str, digest: str, body: AsyncGenerator[bytes, None]) -> None:
        """Put a packaged GGUF into the store under that name, unless the name is taken. Raises: StoreError."""
        if await self._store.manifest(names.parse(name)) is not None:
            return
        async with aclosing(body):
            await self._store.write_blob(body, digest)
        async for _ in self.create(CreateRequest(model=name, files={f"{name}.gguf": digest})):
            pass

    async def _adopt(self, name: ModelName, data: bytes) -> bool:
        """For the puller: the manifest of blobs that are here; whether others were removed, now unused.

        Raises: BlobNotFound, CorruptManifest, StoreError.
        """
        async with self._changing:
            if not await self._is_whole(manifest.decode(data)):
                raise BlobNotFound(f"a blob of model '{name.short}' was deleted while it was pulled; pull it again")
            before = await self._store.manifest(name)
            await self._store.put_manifest(name, data)
            _LOG.info("model pulled", model=name.short)
            return before is not None and await self._remove_unused(before)

    # --- parts ------------------------------------------------------------------------------------------------

    def _warn_once(self, stored: StoredManifest, reason: str) -> None:
        if stored.digest not in self._warned:
            self._warned.add(stored.digest)
            _LOG.warning("a model of the store can't be used", model=stored.name.short, reason=reason)

    async def _find(self, model: str, missing: str) -> StoredManifest:
        stored = await self._store.manifest(names.parse(model))
        if stored is None:
            raise ModelNotFound(missing)
        return stored

    async def _base_of(self, model: str) -> tuple[str, Parts]:
        stored = await self._find(model, f"model '{model}' not found")
        return stored.name.short, await self._read(stored)

    def _paths(self, model: Manifest, media_type: str) -> tuple[str, ...]:
        return tuple(self._store.blob_path(layer.digest) for layer in model.of_type(media_type))

    async def _read(self, stored: StoredManifest) -> Parts:
        """Raises: CorruptManifest, BlobNotFound, StoreError, GgufError, Unsupported."""
        known = self._parts.get(stored.digest)
        if known is not None and await self._store.blob_size(known.model_digest) is not None:
            return known
        found = manifest.decode(stored.data)
        weights = found.of_type(manifest.MODEL)
        if not weights:
            raise StoreError(f"model '{stored.name.short}' has no GGUF weights; only such models can be run")
        if not await self._is_whole(found):
            raise StoreError(f"a blob of model '{stored.name.short}' is missing; create or copy it again")
        config = manifest.decode_config(await self._store.read_blob(found.config.digest))
        parts = await self._parts_of(found, config, weights[0])
        self._parts[stored.digest] = parts
        return parts

    async def _parts_of(self, found: Manifest, config: Config, weights: Layer) -> Parts:
        facts = await self._store.gguf_facts(weights.digest)
        projectors = [await self._store.gguf_facts(layer.digest) for layer in found.of_type(manifest.PROJECTOR)]
        templates = await self._texts(found, manifest.TEMPLATE, manifest.OLD_TEMPLATE)
        systems = await self._texts(found, manifest.SYSTEM)
        parameters = await self._blob(found, manifest.PARAMS)
        messages = await self._blob(found, manifest.MESSAGES)
        raw = manifest.decode_parameters(parameters) if parameters else {}
        template = templates[-1] if templates else None
        return Parts(
            manifest=found,
            config=config,
            model_digest=weights.digest,
            facts=facts,
            details=ModelDetails(
                format=config.model_format,
                family=config.model_family,
                families=tuple(config.model_families or ()),
                parameter_size=config.model_type,
                quantization_level=config.file_type,
                context_length=facts.context_length,
                embedding_length=facts.embedding_length,
            ),
            capabilities=capabilities(facts, template, config, projectors),
            template=template,
            system=systems[-1] if systems else "",
            options=parse_options(raw)[0],
            parameters=raw,
            messages=manifest.decode_messages(messages) if messages else (),
            licenses=tuple(await self._texts(found, manifest.LICENSE)),
        )

    async def _texts(self, model: Manifest, *media_types: str) -> list[str]:
        return [
            (await self._store.read_blob(layer.digest)).decode("utf-8", "replace")
            for layer in model.of_type(*media_types)
        ]

    async def _blob(self, model: Manifest, media_type: str) -> bytes:
        layers: Sequence[Layer] = model.of_type(media_type)
        return await self._store.read_blob(layers[-1].digest) if layers else b""

    async def _is_whole(self, model: Manifest) -> bool:
        return all([await self._store.blob_size(digest) is not None for digest in model.digests])

    async def _undo(self, name: ModelName, creator: Creator) -> None:
        """Remove what a failed creation added, unless it was cancelled just after its manifest was written."""
        try:
            stored = await self._store.manifest(name)
            if stored is None or stored.data != creator.manifest:
                await discard(self._store, creator.created)
        except StoreError as error:  # the first error is the one to tell
            _LOG.warning("the remains of a failed creation were not removed", model=name.short, reason=str(error))

    async def _discard_made(self, name: ModelName, creator: Creator) -> None:
        """Remove the weights that a failed creation made, unless a model has them now."""
        if not creator.made:
            return
        try:
            async with self._changing:
                await discard(self._store, set(creator.made) - await self._store.used_blobs())
        except StoreError as error:  # the first error is the one to tell
            _LOG.warning("the weights of a failed creation were not removed", model=name.short, reason=str(error))

    async def _remove_unused(self, gone: StoredManifest) -> bool:
        """Blobs of a former manifest that no model uses any more; none, if a manifest can't be read. Whether any."""
        if not self._prune:
            return False
        try:
            unused = manifest.decode(gone.data).digests - await self._store.used_blobs()
            await discard(self._store, unused)
            return bool(unused)
        except OllamaMaxError as error:
            _LOG.warning("unused blobs were not removed", model=gone.name.short, reason=str(error))
            return False
