"""Models: facts, records, launches."""

from typing import Any

from msgspec import Struct

from ollamamax.core.types.names import ModelName
from ollamamax.core.types.requests import Message, Options


class ModelDetails(Struct, frozen=True):
    """Ollama's `details` object."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int = 0
    embedding_length: int = 0


class GgufFacts(Struct, frozen=True):
    """What placement needs to know of a GGUF, read from its header. Per-layer lists have one entry per block.

    metadata: all key-values save long arrays, which stand as an empty list (`general.name` included).
    tensors: (name, ggml type name, shape) of each tensor.  tensor_bytes: the sum of all tensors' data.
    """

    architecture: str
    file_bytes: int
    tensor_bytes: int
    parameter_count: int
    block_count: int
    context_length: int
    embedding_length: int
    feed_forward_length: int
    head_count: int
    head_count_kv: tuple[int, ...]
    key_length: int
    value_length: int
    vocab_size: int
    sliding_window: int = 0
    pooling_type: int | None = None
    file_type: str = ""
    chat_template: str = ""
    metadata: dict[str, Any] = {}
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...] = ()


class ModelRecord(Struct, frozen=True):
    """One listed model of the store or of an attached engine. digest: bare hex sha256 of the manifest."""

    name: str
    digest: str
    size_bytes: int
    modified_ns: int
    details: ModelDetails
    capabilities: tuple[str, ...] = ()


class ResolvedModel(Struct, frozen=True):
    """A model of the local store, ready to be launched or shown. Paths are absolute. digest: see ModelRecord."""

    name: ModelName
    digest: str
    modified_ns: int
    size_bytes: int
    model_path: str
    model_digest: str
    facts: GgufFacts
    details: ModelDetails
    capabilities: tuple[str, ...]
    adapter_paths: tuple[str, ...] = ()
    projector_paths: tuple[str, ...] = ()
    template: str | None = None
    system: str = ""
    options: Options = Options()
    parameters: dict[str, Any] = {}
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()
    renderer: str = ""
    parser: str = ""


class LoadedModel(Struct, frozen=True):
    """One row of /api/ps. expires_ns: wall clock, unix nanoseconds; FOREVER_MS = never."""

    name: str
    digest: str
    size_bytes: int
    vram_bytes: int
    context_length: int
    expires_ns: int
    details: ModelDetails


class LaunchSpec(Struct, frozen=True, kw_only=True):
    """All that a llama.cpp child needs. Two specs with equal fields can share one runner.

    key: identity of the weights (blob digest plus adapters).  ctx_tokens: per slot.  parallel: slots.
    gpu_layers: -1 = automatic, 0 = CPU.  threads: 0 = automatic.
    """

    key: str
    name: str
    model_path: str
    ctx_tokens: int
    parallel: int = 1
    batch_tokens: int = 512
    embedding: bool = False
    adapter_paths: tuple[str, ...] = ()
    projector_path: str = ""
    gpu_layers: int = -1
    main_gpu: int = 0
    threads: int = 0
    use_mmap: bool = True
    kv_cache_type: str = "f16"
    flash_attention: str = "auto"
    context_shift: bool = True


class GgufJob(Struct, frozen=True):
    """A GGUF that is to be made of files. files: name -> absolute path: the parts of one GGUF, or what a directory of
    safetensors holds.  quantize: the type that its weights get, "" = they keep theirs.
    """

    files: dict[str, str]
    quantize: str = ""
