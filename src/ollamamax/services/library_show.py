"""What is read of a model once per version, and how /api/show tells it."""

import time
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from ollamamax.core.dialects.framing import local_time
from ollamamax.core.modelspec.capabilities import DEFAULT_TEMPLATE, runs_native
from ollamamax.core.modelspec.manifest import MODEL, Config, Manifest
from ollamamax.core.types import GgufFacts, Message, ModelDetails, Options

_HIDDEN: Final = frozenset({"general.name", "tokenizer.chat_template"})


class Parts(Struct, frozen=True, kw_only=True):
    """All that a manifest leads to, read and decoded. template: the Go template, None where there is none."""

    manifest: Manifest
    config: Config
    model_digest: str
    facts: GgufFacts
    details: ModelDetails
    capabilities: tuple[str, ...]
    template: str | None
    system: str
    options: Options
    parameters: dict[str, Any]
    messages: tuple[Message, ...]
    licenses: tuple[str, ...]


def shown(
    parts: Parts,
    facts: GgufFacts,
    projectors: Sequence[GgufFacts],
    modelfile: str,
    parameters: str,
    modified_ns: int,
) -> dict[str, Any]:
    """Ollama's reply to /api/show; what is empty is left out. facts: with long arrays where all is to be told."""
    native = runs_native(parts.config, parts.template, facts.chat_template)
    template = (facts.chat_template if native else parts.template) or DEFAULT_TEMPLATE
    second = modified_ns // 1_000_000_000
    optional: dict[str, Any] = {
        "license": "\n".join(parts.licenses),
        "parameters": parameters,
        "template": template,
        "system": parts.system,
        "messages": [{"role": message.role, "content": message.content} for message in parts.messages],
        "projector_info": {name: value for facts in projectors for name, value in facts.metadata.items()},
        "tensors": [{"name": name, "type": kind, "shape": shape} for name, kind, shape in facts.tensors],
        "requires": parts.config.requires,
    }
    details = parts.details
    return {
        "modelfile": modelfile,
        **{name: value for name, value in optional.items() if value},
        "details": {
            "parent_model": parts.manifest.of_type(MODEL)[0].from_model,
            "format": details.format,
            "family": details.family,
            "families": details.families or None,
            "parameter_size": details.parameter_size,
            "quantization_level": details.quantization_level,
        },
        "model_info": _model_info(facts),
        "capabilities": parts.capabilities,
        "modified_at": local_time(modified_ns, time.localtime(second).tm_gmtoff),
    }


def _model_info(facts: GgufFacts) -> dict[str, Any]:
    """The GGUF's key-values without the name and the chat template; the count of parameters is computed."""
    info = {name: value for name, value in sorted(facts.metadata.items()) if name not in _HIDDEN}
    return {**info, "general.parameter_count": facts.parameter_count}
