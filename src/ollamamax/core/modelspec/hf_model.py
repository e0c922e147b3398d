"""A directory as transformers keeps models, as a GGUF: its weights keep their types, vectors become F32."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ollamamax.core.errors import BadRequest, GgufError, GgufUnsupported
from ollamamax.core.modelspec import hf_config, hf_tokenizer
from ollamamax.core.modelspec.assembly import Assembly, Planned
from ollamamax.core.modelspec.gguf_writer import text, u32
from ollamamax.core.modelspec.hf_config import HfConfig
from ollamamax.core.modelspec.safetensors import StoredTensor

CONFIG: Final = "config.json"
TOKENIZER: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
SENTENCEPIECE: Final = "tokenizer.model"
CHAT_TEMPLATE: Final = "chat_template.jinja"
READ: Final = (CONFIG, TOKENIZER, TOKENIZER_CONFIG, SENTENCEPIECE, CHAT_TEMPLATE)
"""The files beside the weights that count."""

_SAFETENSORS: Final = ".safetensors"
_F32: Final = 0
_FREQUENCIES: Final = "rope_freqs.weight"
_FILE_TYPES: Final = {0: 0, 1: 1, 30: 32}


def are_safetensors(files: Iterable[str]) -> bool:
    """Whether files of these names are what a directory of safetensors holds."""
    return any(name.endswith(_SAFETENSORS) for name in files)


def weights_among(files: Iterable[str]) -> list[str]:
    """The files that hold the weights: those called model*.safetensors, where there are any, since some directories
    hold the same weights under other names too.
    """
    found = [name for name in files if name.endswith(_SAFETENSORS)]
    return [name for name in found if name.rpartition("/")[2].startswith("model")] or found


def of_directory(texts: Mapping[str, bytes], tensors: Mapping[str, Sequence[StoredTensor]]) -> Assembly:
    """texts: content of those files of READ that are there.  tensors: of each safetensors file, by its name.

    Raises: BadRequest for a file that is missing, GgufUnsupported for what can't be converted, GgufError for damage.
    """
    if CONFIG not in texts:
        raise BadRequest(f"{CONFIG} is missing: give all files of the model's directory")
    raw = _object(texts, CONFIG)
    try:
        config = hf_config.read(raw)
        told = _object(texts, TOKENIZER_CONFIG)
        tokenizer = _object(texts, TOKENIZER)
        if not tokenizer and SENTENCEPIECE not in texts:
            raise BadRequest(f"{TOKENIZER} and {SENTENCEPIECE} are missing: give all files of the model's directory")
        vocabulary = hf_tokenizer.read(texts.get(SENTENCEPIECE), tokenizer, told, raw, config.vocabulary)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise GgufError(f"the model's description is damaged: {error!r}") from error
    planned = _planned(config, tensors)
    largest = max(planned, key=lambda tensor: tensor.size_bytes)
    file_type = _FILE_TYPES[largest.source_kind]
    pairs = {**config.pairs, "general.file_type": u32(file_type), **vocabulary}
    if template := _chat_template(texts, told):
        pairs["tokenizer.chat_template"] = text(template)
    return Assembly(config.architecture, pairs, tuple(planned))


def _planned(config: HfConfig, tensors: Mapping[str, Sequence[StoredTensor]]) -> list[Planned]:
    planned: dict[str, Planned] = {}
    for file, stored in tensors.items():
        for tensor in stored:
            name = config.name_of(tensor.name)
            if name in planned:
                raise GgufError(f"tensor {tensor.name!r} comes twice")
            if name:
                planned[name] = _plan(config, name, file, tensor)
    if absent := sorted(config.required() - planned.keys()):
        raise BadRequest(f"{len(absent)} tensors are missing, {absent[0]} among them: is a safetensors file missing?")
    if config.frequencies:
        data = hf_config.frequency_bytes(config.frequencies)
        planned[_FREQUENCIES] = Planned(_FREQUENCIES, _F32, (len(config.frequencies),), "", 0, _F32, data=data)
    return list(planned.values())


def _plan(config: HfConfig, name: str, file: str, tensor: StoredTensor) -> Planned:
    heads = config.heads_of(name)
    if heads and (not tensor.shape or tensor.shape[0] != heads * config.head_size):
        raise GgufUnsupported(f"tensor {tensor.name!r} has the shape {list(tensor.shape)}, not one of {heads} heads")
    kind = tensor.kind if len(tensor.shape) > 1 else _F32
    return Planned(name, kind, tensor.shape[::-1], file, tensor.offset, tensor.kind, heads)


def _chat_template(texts: Mapping[str, bytes], told: dict[str, Any]) -> str:
    if CHAT_TEMPLATE in texts:
        return texts[CHAT_TEMPLATE].decode("utf-8", "replace")
    said = told.get("chat_template")
    if isinstance(said, list):
        named = {each.get("name"): each.get("template") for each in said if isinstance(each, dict)}
        said = named.get("default")
    return said if isinstance(said, str) else ""


def _object(texts: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Raises: GgufError."""
    if name not in texts:
        return {}
    try:
        return msgspec.json.decode(texts[name], type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GgufError(f"{name} can't be read: {error}") from error
