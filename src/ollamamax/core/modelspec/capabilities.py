"""What a model can do, and whether its own Jinja template or a Go template renders its prompts.

Source: Ollama `server/images.go` (capabilities), `template/template.go` (variables of a template),
`model/parsers` (what each builtin parser understands).
"""

from collections.abc import Sequence
from typing import Final

from ollamamax.core.errors import TemplateError
from ollamamax.core.modelspec.manifest import Config
from ollamamax.core.modelspec.template import parse
from ollamamax.core.types import GgufFacts

DEFAULT_TEMPLATE: Final = "{{ .Prompt }}"
"""What a model without any template is rendered with."""

_TOOL_PARSERS: Final = frozenset(
    {
        *("qwen3", "qwen3-thinking", "qwen3.5", "ornith", "qwen3-coder", "qwen3-vl-instruct", "qwen3-vl-thinking"),
        *("ministral", "harmony", "cogito", "deepseek3", "olmo3", "olmo3-think", "nemotron-3-nano"),
        *("nemotron-3.5-nano", "functiongemma", "glm-4.7", "gemma4", "gemma4-no-thinking", "lfm2", "lfm2-thinking"),
        *("laguna", "poolside-v1", "cohere", "glimmer"),
    }
)
_THINKING_PARSERS: Final = frozenset(
    {
        *("qwen3-thinking", "qwen3.5", "ornith", "qwen3-vl-thinking", "harmony", "cogito", "deepseek3", "olmo3-think"),
        *("nemotron-3-nano", "nemotron-3.5-nano", "glm-4.7", "gemma4", "lfm2-thinking", "laguna", "cohere"),
    }
)
RENDERERS: Final = frozenset(
    {
        *("qwen3-coder", "qwen3-vl-instruct", "qwen3-vl-thinking", "qwen3.5", "qwen3.8", "ornith", "cogito"),
        *("deepseek3.1", "olmo3", "olmo3.1", "olmo3-think", "olmo3-32b-think", "nemotron-3-nano"),
        *("nemotron-3.5-nano", "gemma4", "gemma4-small", "gemma4-large", "functiongemma", "glm-4.7", "glm-ocr"),
        *("lfm2", "lfm2-thinking", "laguna", "poolside-v1", "cohere", "glimmer"),
    }
)
"""Names of the code that builds prompts in Ollama. Here the GGUF's own template does."""
PARSERS: Final = _TOOL_PARSERS | _THINKING_PARSERS | {"passthrough", "glm-ocr"}
"""Names of the code that takes answers apart in Ollama. Here the engine does, by the form of that template."""
_GPTOSS_FAMILIES: Final = frozenset({"gptoss", "gpt-oss"})


def runs_native(config: Config, go_template: str | None, jinja: str) -> bool:
    """Whether the engine renders prompts by the GGUF's own Jinja template.

    So it is where the model has no Go template; where its config names a builtin renderer or parser, beside which
    Ollama never uses the template; and where the template is only the default one and the GGUF has a better.
    """
    if go_template is None or config.renderer or config.parser:
        return True
    return bool(jinja) and go_template.strip() == DEFAULT_TEMPLATE


def unknown_form(renderer: str, parser: str) -> str:
    """What is wrong with these names, "" if nothing is."""
    if renderer and renderer not in RENDERERS:
        return f'unknown renderer "{renderer}"'
    return f'unknown parser "{parser}"' if parser and parser not in PARSERS else ""


def capabilities(
    facts: GgufFacts, go_template: str | None, config: Config, projectors: Sequence[GgufFacts] = ()
) -> tuple[str, ...]:
    """Names of Ollama's capabilities, without repeats. go_template: None where the model has none."""
    found = list(config.capabilities or ())
    found.append("completion" if facts.pooling_type is None else "embedding")
    parts = [(facts.architecture, facts.metadata), *((each.architecture, each.metadata) for each in projectors)]
    keys = {key.removeprefix(f"{name}.") for name, metadata in parts for key in metadata}
    if projectors or "vision.block_count" in keys:
        found.append("vision")
    if "audio.block_count" in keys or any(each.metadata.get("clip.has_audio_encoder") for each in projectors):
        found.append("audio")
    if go_template is None or runs_native(config, go_template, facts.chat_template):
        found += _of_jinja(facts.chat_template)
    else:
        found += _of_go(go_template)
    found += ["tools"] * (config.parser in _TOOL_PARSERS) + ["thinking"] * (config.parser in _THINKING_PARSERS)
    found += ["thinking"] * (facts.architecture in _GPTOSS_FAMILIES or config.model_family in _GPTOSS_FAMILIES)
    return tuple(dict.fromkeys(found))


def _of_jinja(template: str) -> list[str]:
    found = ["tools"] * ("tools" in template or "tool_call" in template)
    return found + ["thinking"] * ("<think>" in template and "</think>" in template)


def _of_go(text: str) -> list[str]:
    try:
        template = parse(text)
    except TemplateError:  # its models answer with the error; it takes nothing away from the others of a list
        return []
    found = ["tools"] * template.uses("tools") + ["insert"] * template.uses("suffix")
    return found + ["thinking"] * (template.thinking_tags() is not None)
