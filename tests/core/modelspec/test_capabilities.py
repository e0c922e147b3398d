import msgspec
import pytest

from ollamamax.core.modelspec.capabilities import DEFAULT_TEMPLATE, capabilities, runs_native, unknown_form
from ollamamax.core.modelspec.manifest import Config
from ollamamax.core.types import GgufFacts

PLAIN = GgufFacts("llama", 9, 8, 7, 2, 512, 64, 128, 4, (4, 4), 16, 16, 259)
PROJECTOR = msgspec.structs.replace(PLAIN, architecture="clip")
TOOLS_JINJA = "{% if tools %}{{ tools }}{% endif %}<think></think>"


def facts(**changes: object) -> GgufFacts:
    return msgspec.structs.replace(PLAIN, **changes)


@pytest.mark.parametrize(
    ("model", "template", "config", "found"),
    [
        (PLAIN, None, Config(), ("completion",)),
        (facts(pooling_type=0), None, Config(), ("embedding",)),
        (facts(chat_template=TOOLS_JINJA), None, Config(), ("completion", "tools", "thinking")),
        (facts(chat_template="<think>"), None, Config(), ("completion",)),
        (facts(chat_template="<tool_call>"), None, Config(), ("completion", "tools")),
        (facts(chat_template=TOOLS_JINJA), "{{ .Prompt }}{{ .Suffix }}", Config(), ("completion", "insert")),
        (facts(chat_template=TOOLS_JINJA), " {{ .Prompt }}\n", Config(), ("completion", "tools", "thinking")),
        (PLAIN, "{{ range .Tools }}{{ . }}{{ end }}", Config(), ("completion", "tools")),
        (PLAIN, "{{ range .Messages }}<t>{{ .Thinking }}</t>{{ end }}", Config(), ("completion", "thinking")),
        (PLAIN, '.Tools {{/* .Tools */}}{{ "{{ .Tools }}" }}{{ `.Suffix` }}', Config(), ("completion",)),
        (PLAIN, "{{ range .Messages }}{{ .Thinking }}{{ end }}", Config(), ("completion",)),
        (PLAIN, "{{ if .Tools }}", Config(), ("completion",)),
        (PLAIN, DEFAULT_TEMPLATE, Config(parser="qwen3-coder"), ("completion", "tools")),
        (PLAIN, DEFAULT_TEMPLATE, Config(parser="gemma4"), ("completion", "tools", "thinking")),
        (PLAIN, DEFAULT_TEMPLATE, Config(parser="passthrough"), ("completion",)),
        (PLAIN, None, Config(capabilities=("vision", "completion")), ("vision", "completion")),
        (PLAIN, None, Config(capabilities=None), ("completion",)),
        (PLAIN, None, Config(model_family="gptoss"), ("completion", "thinking")),
        (facts(architecture="gpt-oss"), None, Config(), ("completion", "thinking")),
        (facts(metadata={"llama.vision.block_count": 2}), None, Config(), ("completion", "vision")),
        (facts(metadata={"other.vision.block_count": 2}), None, Config(), ("completion",)),
        (facts(metadata={"llama.audio.block_count": 2}), None, Config(), ("completion", "audio")),
    ],
)
def test_capabilities(model: GgufFacts, template: str | None, config: Config, found: tuple[str, ...]) -> None:
    assert capabilities(model, template, config) == found


def test_a_projector_sees_and_may_hear() -> None:
    assert capabilities(PLAIN, None, Config(), [PROJECTOR]) == ("completion", "vision")
    hears = msgspec.structs.replace(PROJECTOR, metadata={"clip.has_audio_encoder": True})
    assert capabilities(PLAIN, None, Config(), [hears]) == ("completion", "vision", "audio")


@pytest.mark.parametrize(
    ("config", "template", "jinja", "native"),
    [
        (Config(), None, "", True),
        (Config(), "{{ .Prompt }}!", "x", False),
        (Config(), DEFAULT_TEMPLATE, "x", True),
        (Config(), DEFAULT_TEMPLATE, "", False),
        (Config(renderer="gemma4"), "{{ .Prompt }}!", "x", True),
        (Config(parser="gemma4"), "{{ .Prompt }}!", "x", True),
    ],
)
def test_who_renders(config: Config, template: str | None, jinja: str, native: bool) -> None:
    assert runs_native(config, template, jinja) is native


@pytest.mark.parametrize(
    ("renderer", "parser", "problem"),
    [
        ("", "", ""),
        ("qwen3-coder", "qwen3-coder", ""),
        ("gemma4", "", ""),
        ("", "passthrough", ""),
        ("qwen9", "qwen3", 'unknown renderer "qwen9"'),
        ("", "qwen9", 'unknown parser "qwen9"'),
    ],
)
def test_names_of_code_for_prompts_and_answers(renderer: str, parser: str, problem: str) -> None:
    assert unknown_form(renderer, parser) == problem
