"""Plain requests read in one step are what they are read field by field, errors included."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollamamax.core.dialects import ollama, openai, plain
from ollamamax.core.errors import BadRequest

HELLO = {"role": "user", "content": "hello"}
NUMBERS = st.one_of(
    st.none(), st.integers(-3, 40), st.integers(), st.floats(), st.just(1 << 63), st.just(-(1 << 63)), st.just(10**400)
)
VALUES = st.one_of(NUMBERS, st.booleans(), st.text(max_size=4), st.sampled_from(["5m", "-1", "0"]), st.just([]))
OPTIONS = st.dictionaries(st.sampled_from(["num_ctx", "seed", "temperature", "stop", "other"]), VALUES, max_size=3)
MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries({}, optional={
            "role": st.sampled_from(["user", "System", "tool", ""]) | st.none(),
            "content": st.text(st.characters(), max_size=6) | VALUES,
            "name": st.just("f"),
            "Content": st.text(max_size=3),
        }),
        st.just(HELLO),
        VALUES,
    ),
    max_size=3,
)  # fmt: skip
COMMON: dict[str, Any] = {"model": st.sampled_from(["m", "", "Tiny"]) | VALUES, "messages": MESSAGES | VALUES}
CHAT = st.fixed_dictionaries(COMMON, optional={
    "stream": st.booleans() | VALUES,
    "options": OPTIONS | VALUES,
    "keep_alive": VALUES,
    "think": st.booleans() | VALUES,
    "truncate": st.booleans(),
    "unknown": VALUES,
})  # fmt: skip
COMPLETION = st.fixed_dictionaries(COMMON, optional={
    "stream": st.booleans() | VALUES,
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans() | VALUES}) | VALUES,
    "max_tokens": NUMBERS,
    "max_completion_tokens": NUMBERS,
    "seed": NUMBERS,
    "temperature": NUMBERS,
    "top_p": NUMBERS,
    "frequency_penalty": NUMBERS,
    "presence_penalty": NUMBERS,
    "stop": st.just("x"),
})  # fmt: skip


def outcome(read: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return read(body)
    except BadRequest as error:
        return type(error), str(error)


def compared(read: Callable[[bytes], Any], name: str, body: bytes) -> bool:
    """Both ways agree; whether the body was plain."""
    with pytest.MonkeyPatch.context() as patch:
        told = outcome(read, body)
        is_plain = outcome(getattr(plain, name), body) is not None
        patch.setattr(ollama if read is ollama.chat_request else openai, name, lambda _: None)
        assert told == outcome(read, body)
    return is_plain


@given(CHAT, st.booleans())
@example({"model": "m", "messages": [HELLO], "options": {"seed": "x"}, "keep_alive": "x"}, True)
@example({"model": "m", "messages": [{"role": "user", "content": "\ud800"}]}, True)
def test_ollama(request: dict[str, Any], ascii_only: bool) -> None:
    body = json.dumps(request, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    compared(ollama.chat_request, "ollama_chat", body)


@given(COMPLETION, st.booleans())
@example({"model": "m", "messages": [HELLO], "max_tokens": -(1 << 63)}, True)
@example({"model": "m", "messages": [{"role": "tool", "content": "4", "tool_call_id": "c"}]}, True)
def test_openai(request: dict[str, Any], ascii_only: bool) -> None:
    body = json.dumps(request, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    compared(openai.chat_completion, "openai_chat", body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"USER","content":"x"}],"seed":1} trailing',
        b'{"model":"m","model":"n","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"m","MESSAGES":[{"role":"user","content":"x"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"top_p":1e999}',
        b"",
        b"null",
        b"[" * 5000,
    ],
)
def test_odd_bodies(body: bytes) -> None:
    compared(ollama.chat_request, "ollama_chat", body)
    compared(openai.chat_completion, "openai_chat", body)


@pytest.mark.parametrize(
    "more", [{}, {"stream": True}, {"options": {"num_predict": 3}, "keep_alive": 5}, {"think": False}, {"options": {}}]
)
def test_what_most_clients_send_to_ollama_is_plain(more: dict[str, Any]) -> None:
    assert compared(
        ollama.chat_request, "ollama_chat", json.dumps({"model": "m", "messages": [HELLO], **more}).encode()
    )


@pytest.mark.parametrize(
    "more", [{}, {"stream": True, "stream_options": {"include_usage": True}}, {"max_tokens": 9, "temperature": 0}]
)
def test_what_most_clients_send_to_openai_is_plain(more: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", "messages": [HELLO], **more}).encode()
    assert compared(openai.chat_completion, "openai_chat", body)
