import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.errors import InvalidName
from ollamamax.core.modelspec import names
from ollamamax.core.types import ModelName

LIBRARY = ("registry.ollama.ai", "library")
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tiny", (*LIBRARY, "tiny", "latest")),
        ("Llama3.2:3B", (*LIBRARY, "Llama3.2", "3B")),
        ("me/tiny", ("registry.ollama.ai", "me", "tiny", "latest")),
        ("hf.co/user/Repo.v1:Q4_K_M", ("hf.co", "user", "Repo.v1", "Q4_K_M")),
        ("localhost:5000/ns/m:t", ("localhost:5000", "ns", "m", "t")),
        ("https://hf.co/user/repo", ("hf.co", "user", "repo", "latest")),
        ("HTTP://a.b:80/n/m:t", ("a.b:80", "n", "m", "t")),
        ("_", (*LIBRARY, "_", "latest")),
        ("a" * 80 + ":" + "b" * 80, (*LIBRARY, "a" * 80, "b" * 80)),
        ("h" * 350 + "/n/m", ("h" * 350, "n", "m", "latest")),
    ],
)
def test_names_are_split(text: str, parts: tuple[str, ...]) -> None:
    name = names.parse(text)
    assert names.manifest_parts(name) == parts


@pytest.mark.parametrize(
    "text",
    [
        *("", " tiny", "tiny ", "tiny\n", ":", "tiny:", ":latest", "/tiny", "a//b", "a/b/", "a/b/c/d", "../tiny", ".."),
        *(".x", "-x", "a:b:c", "n.s/m", "a:b/c", "tiny@sha256", "tiny:..", "a/../b", "a\\b", "tín", "http://tiny"),
        *("http://a/b", "ftp://h/n/m", "://h/n/m", "a" * 81, "a:" + "b" * 81, "n" * 81 + "/m", "h" * 351 + "/n/m"),
        *("a\0b", "h/n/m:t/x"),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidName, match=r"^invalid model name$"):
        names.parse(text)


@given(st.text())
def test_any_text_is_a_safe_path_or_refused(text: str) -> None:
    try:
        name = names.parse(text)
    except InvalidName:
        return
    for part in names.manifest_parts(name):
        assert "/" not in part
        assert part[0] not in ".-"
        assert len(part) <= 350


@given(st.from_regex(names._GRAMMAR, fullmatch=True))
def test_the_full_and_the_short_name_mean_the_same(text: str) -> None:
    name = names.parse(text)
    assert names.parse(name.full) == name
    assert names.parse(name.short).key == name.key


@given(st.from_regex(PART, fullmatch=True).filter(lambda part: len(part) <= 80))
def test_casing_is_kept_and_not_compared(model: str) -> None:
    assert names.parse(model) == ModelName(*LIBRARY, model, "latest")
    assert names.key(model) == names.key(model.upper()) == f"{model.lower()}:latest"


def test_texts_outside_the_grammar_are_their_own_key() -> None:
    assert names.key("meta-llama/Llama 3") == "meta-llama/llama 3"
