"""Models whose GGUF writes prompts in a way that many share."""

import msgspec
import pytest
from library_world import World

import gguf_bytes
from ollamamax.core.modelspec import manifest
from ollamamax.core.modelspec.builtin_templates import FORMS, named

# What the tokenizers of many models have for ChatML.
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def templated(jinja: str) -> bytes:
    return gguf_bytes.llama({"tokenizer.chat_template": (gguf_bytes.STRING, jinja)})


@pytest.fixture
def world() -> World:
    return World()


async def test_a_shared_way_of_writing_is_known(world: World) -> None:
    statuses = await world.make("m", templated(CHATML.replace("}}{%", "}}\n{%")))
    assert statuses[:2] == ["parsing GGUF", "using autodetected template chatml"]
    assert await world.layer("m", manifest.TEMPLATE) == [named("chatml").text.encode()]
    (params,) = await world.layer("m", manifest.PARAMS)
    assert msgspec.json.decode(params) == {"stop": list(FORMS["chatml"].stop)}
    assert (await world.library.resolve("m")).template == named("chatml").text
    await world.check()


async def test_what_is_said_goes_before_what_is_known(world: World) -> None:
    said = {"parameters": {"stop": ["END"], "top_k": 3}, "template": "{{ .Prompt }}!"}
    assert "using autodetected template chatml" not in await world.make("m", templated(CHATML), **said)
    assert (await world.library.resolve("m")).template == "{{ .Prompt }}!"
    await world.make("n", templated(CHATML), parameters={"stop": ["END"], "top_k": 3})
    (params,) = await world.layer("n", manifest.PARAMS)
    assert msgspec.json.decode(params) == {"stop": ["END"], "top_k": 3}


@pytest.mark.parametrize("jinja", ["", "{{ messages }}", CHATML + "{# and more #}"])
async def test_other_templates_are_left_to_the_engine(world: World, jinja: str) -> None:
    assert not any("autodetected" in status for status in await world.make("m", templated(jinja)))
    assert (await world.library.resolve("m")).template is None
