"""Manifests and configs of models: what they hold, how they are read, and how a created one is written.

A manifest's bytes are its identity (their sha256 is the model's digest), so created ones are written exactly as Go's
encoder writes them: fields in order, `<`, `>`, `&`, U+2028 and U+2029 escaped, whole numbers without a fraction, a
newline at the end. Unknown keys are ignored.
Source: Ollama `manifest/`, `types/model/config.go`; OCI image manifest v2 schema 2.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from ollamamax.core.errors import BadRequest, CorruptManifest
from ollamamax.core.modelspec.digests import normalise
from ollamamax.core.modelspec.gguf import parameter_size
from ollamamax.core.types import GgufFacts, Message

MANIFEST_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE: Final = "application/vnd.docker.container.image.v1+json"
_LAYER_PREFIX: Final = "application/vnd.ollama.image."
MODEL: Final = _LAYER_PREFIX + "model"
PROJECTOR: Final = _LAYER_PREFIX + "projector"
ADAPTER: Final = _LAYER_PREFIX + "adapter"
TEMPLATE: Final = _LAYER_PREFIX + "template"
OLD_TEMPLATE: Final = _LAYER_PREFIX + "prompt"
SYSTEM: Final = _LAYER_PREFIX + "system"
PARAMS: Final = _LAYER_PREFIX + "params"
MESSAGES: Final = _LAYER_PREFIX + "messages"
LICENSE: Final = _LAYER_PREFIX + "license"


class Layer(Struct, frozen=True, omit_defaults=True, rename={"from_model": "from"}):
    """A blob of a model. from_model: short name of the model that it was taken from."""

    mediaType: str
    digest: str
    size: int
    from_model: str = ""
    name: str = ""


class Manifest(Struct, frozen=True):
    """A model: its config and its layers, in order."""

    schemaVersion: int
    mediaType: str
    config: Layer
    layers: tuple[Layer, ...] = ()

    @property
    def size_bytes(self) -> int:
        """All layers and the config."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def digests(self) -> frozenset[str]:
        """Of the config and all layers."""
        return frozenset({self.config.digest, *(layer.digest for layer in self.layers)})

    def of_type(self, *media_types: str) -> list[Layer]:
        """The layers of these types, in order."""
        return [layer for layer in self.layers if layer.mediaType in media_types]


class RootFs(Struct, frozen=True):
    """What the image format wants of a config: the layers' digests."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class Config(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The config blob. model_type is the parameter size for people, file_type the quantisation level."""

    model_format: str = ""
    model_family: str = ""
    model_families: tuple[str, ...] | None = ()
    model_type: str = ""
    file_type: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    remote_model: str = ""
    capabilities: tuple[str, ...] | None = ()
    context_length: int = 0
    embedding_length: int = 0
    base_name: str = ""
    draft: dict[str, Any] | None = None
    architecture: str = ""
    os: str = ""
    rootfs: RootFs | None = None


class _StoredMessage(Struct, frozen=True):
    role: str
    content: str = ""


_T = TypeVar("_T")

_MAX_INT: Final = (1 << 63) - 1
_WHOLE_BELOW: Final = 1e21
"""From here up Go prints numbers with an exponent."""

_manifests: Final = msgspec.json.Decoder(Manifest)
_configs: Final = msgspec.json.Decoder(Config)
_messages: Final = msgspec.json.Decoder(list[_StoredMessage])
_objects: Final = msgspec.json.Decoder(dict[str, Any])


def decode(data: bytes) -> Manifest:
    """Digests come normalised. Raises: CorruptManifest."""
    try:
        manifest = _manifests.decode(data)
        return Manifest(
            manifest.schemaVersion,
            manifest.mediaType,
            _checked(manifest.config),
            tuple(_checked(layer) for layer in manifest.layers),
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadRequest) as error:
        raise CorruptManifest(f"the manifest can't be read: {error}") from error


def decode_config(data: bytes) -> Config:
    """Raises: CorruptManifest."""
    return _decoded(_configs, data, "config")


def decode_messages(data: bytes) -> tuple[Message, ...]:
    """A messages layer. Raises: CorruptManifest."""
    return tuple(Message(role=each.role, content=each.content) for each in _decoded(_messages, data, "messages layer"))


def decode_parameters(data: bytes) -> dict[str, Any]:
    """A params layer. Raises: CorruptManifest."""
    return _decoded(_objects, data, "params layer")


def encode(config: Layer, layers: Sequence[Layer]) -> bytes:
    """A new manifest's bytes."""
    return _go_json(Manifest(2, MANIFEST_TYPE, config, tuple(layers)))


def encode_config(config: Config, layers: Sequence[Layer]) -> bytes:
    """A config blob for these layers."""
    whole = msgspec.structs.replace(
        config,
        architecture="amd64",
        os="linux",
        rootfs=RootFs(diff_ids=tuple(layer.digest for layer in layers)),
    )
    return _go_json(whole)


def encode_messages(messages: Sequence[Message]) -> bytes:
    """A messages layer; roles and texts only."""
    return _go_json([_StoredMessage(message.role, message.content) for message in messages])


def encode_parameters(parameters: dict[str, Any]) -> bytes:
    """A params layer; keys sorted."""
    return _go_json({name: _go_number(value) for name, value in sorted(parameters.items())})


def config_of(facts: GgufFacts, projector: GgufFacts | None) -> Config:
    """The config of a model that is made from a GGUF (and its projector)."""
    families = (facts.architecture,) + ((projector.architecture,) if projector else ())
    return Config(
        model_format="gguf",
        model_family=facts.architecture,
        model_families=families,
        model_type=parameter_size(facts.parameter_count),
        file_type=facts.file_type,
    )


def _checked(layer: Layer) -> Layer:
    if not 0 <= layer.size <= _MAX_INT:
        raise BadRequest(f"a layer has the size {layer.size}")
    return msgspec.structs.replace(layer, digest=normalise(layer.digest))


def _decoded(decoder: msgspec.json.Decoder[_T], data: bytes, what: str) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptManifest(f"the model's {what} can't be read: {error}") from error


def _go_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE_BELOW else value


def _go_json(value: Any) -> bytes:
    data = msgspec.json.encode(value)
    for character in "<>&\u2028\u2029":
        data = data.replace(character.encode(), b"\\u%04x" % ord(character))
    return data + b"\n"
