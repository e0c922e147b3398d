"""The shared ways of writing prompts, each as its models read them."""

import pytest

from ollamamax.core.modelspec.builtin_templates import FORMS, detect, named
from ollamamax.core.modelspec.prompt import render_chat
from ollamamax.core.modelspec.template import parse
from ollamamax.core.types import Message

TALK = (Message("user", "u1"), Message("assistant", "a1"), Message("user", "u2"))
WITH_SYSTEM = (Message("system", "s"), *TALK)
L3 = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
EXPECTED = {
    "alfred": "<start_system>s<end_message><start_user>u1<end_message><start_assistant>a1<end_message>"
    "<start_user>u2<end_message><start_assistant>",
    "chatml": "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
    "<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\n",
    "gemma-instruct": "<start_of_turn>user\ns\nu1<end_of_turn>\n<start_of_turn>model\na1<end_of_turn>\n"
    "<start_of_turn>user\nu2<end_of_turn>\n<start_of_turn>model\n",
    "gemma3-instruct": "<start_of_turn>user\ns\n\nu1<end_of_turn>\n<start_of_turn>model\na1<end_of_turn>\n"
    "<start_of_turn>user\nu2<end_of_turn>\n<start_of_turn>model\n",
    "granite-instruct": "System:\ns\n\nQuestion:\nu1\n\nAnswer:\na1\n\nQuestion:\nu2\n\nAnswer:\n",
    "llama3-instruct": "".join(
        L3.format(role, text) + "<|eot_id|>"
        for role, text in (("system", "s"), ("user", "u1"), ("assistant", "a1"), ("user", "u2"))
    )
    + L3.format("assistant", ""),
    "openchat": "GPT4 Correct System: s<|end_of_turn|>GPT4 Correct User: u1<|end_of_turn|>"
    "GPT4 Correct Assistant: a1<|end_of_turn|>GPT4 Correct User: u2<|end_of_turn|>GPT4 Correct Assistant:",
    "phi-3": "<|system|>\ns<|end|>\n<|user|>\nu1<|end|>\n<|assistant|>\na1<|end|>\n<|user|>\nu2<|end|>\n"
    "<|assistant|>\n",
    "zephyr": "<|system|>\ns</s>\n<|user|>\nu1</s>\n<|assistant|>\na1</s>\n<|user|>\nu2</s>\n<|assistant|>\n",
}


def rendered(name: str, messages: tuple[Message, ...]) -> str:
    return render_chat(parse(named(name).text), messages, (), None, "", "")


@pytest.mark.parametrize("name", FORMS)
def test_a_conversation_is_written_as_its_models_read_it(name: str) -> None:
    assert rendered(name, WITH_SYSTEM) == EXPECTED[name]


@pytest.mark.parametrize("name", FORMS)
def test_without_a_system_text_nothing_of_it_stays(name: str) -> None:
    text = rendered(name, TALK)
    assert "system" not in text.lower()
    assert text.replace("u1", "").replace("u2", "").replace("a1", "") != text
    assert "<no value>" not in text


def test_several_system_texts_are_told_with_the_next_question() -> None:
    messages = (Message("system", "s"), Message("user", "u1"), Message("system", "t"), Message("user", "u2"))
    assert rendered("gemma-instruct", messages) == (
        "<start_of_turn>user\ns\nu1<end_of_turn>\n<start_of_turn>user\nt\nu2<end_of_turn>\n<start_of_turn>model\n"
    )


def test_parameters() -> None:
    assert named("gemma3-instruct").parameters == {"stop": ["<end_of_turn>"], "temperature": 0.1}
    assert named("chatml").parameters == {"stop": ["<|im_start|>", "<|im_end|>"]}


@pytest.mark.parametrize("jinja", ["", "{{ messages }}", "\ud800", "x" * 10_000])
def test_what_is_unknown(jinja: str) -> None:
    assert detect(jinja) is None


def test_white_space_does_not_count() -> None:
    # What the tokenizers of many models have for ChatML.
    chatml = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
        "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    for jinja in (chatml, chatml.replace("}}{%", "}}\n  {%")):
        assert detect(jinja) == named("chatml")
