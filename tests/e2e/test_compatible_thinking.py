"""Thoughts of a real model, as OpenAI's responses and Anthropic's messages tell them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from nodes import LIMIT_S, Node, add_model

from models import write_llama

CYCLE = "abc</think>xyz"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}"
LIMIT = len(CYCLE) + 3  # the thoughts, the text, and the first of the next round


@pytest.fixture
def url(shared_node: Node, tmp_path: Path) -> Iterator[str]:
    """Of a node that has `thinker`."""
    add_model(shared_node.url, "thinker", write_llama(tmp_path / "t.gguf", chain=True, cycle=CYCLE, template=TEMPLATE))
    yield shared_node.url
    shared_node.ask("POST", "/api/generate", {"model": "thinker", "keep_alive": 0})
    shared_node.ask("DELETE", "/api/delete", {"model": "thinker"})


def test_messages(url: str) -> None:
    asked: Any = {"model": "thinker", "max_tokens": LIMIT, "messages": [{"role": "user", "content": "hi"}]}
    with anthropic.Anthropic(base_url=url, api_key="x", max_retries=0, timeout=LIMIT_S) as client:
        whole = client.messages.create(**asked, thinking={"type": "enabled", "budget_tokens": 1024})
        with client.messages.stream(**asked, thinking={"type": "adaptive"}) as stream:
            streamed = stream.get_final_message()
    for answer in (whole, streamed):
        thoughts, text = answer.content
        assert thoughts.type == "thinking"
        assert text.type == "text"
        assert (thoughts.thinking, text.text) == ("abc", "xyzabc")


def test_responses(url: str) -> None:
    asked: Any = {"model": "thinker", "input": "hi", "max_output_tokens": LIMIT, "reasoning": {"effort": "low"}}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=LIMIT_S) as client:
        whole = client.responses.create(**asked)
        with client.responses.stream(**asked) as stream:
            thought = [event.delta for event in stream if event.type == "response.reasoning_summary_text.delta"]
            streamed = stream.get_final_response()
        with pytest.raises(openai.BadRequestError, match='"tiny" does not support thinking'):
            client.responses.create(model="tiny", input="hi", reasoning={"effort": "low"})
    assert "".join(thought) == "abc"
    for answer in (whole, streamed):
        thoughts = answer.output[0]
        assert thoughts.type == "reasoning"
        assert (thoughts.summary[0].text, thoughts.encrypted_content) == ("abc", "abc")
        assert answer.output_text == "xyzabc"
