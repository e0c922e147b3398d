"""Settings merged into files of others: what comes out is read back by real parsers."""

import json
import tomllib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.cli.merging import CannotMerge, merged_json, merged_json_list, merged_toml, merged_yaml_models

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)
WORDS = st.text("abcdefghij", min_size=1, max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
ENTRY: dict[str, Any] = {"name": "Ours", "provider": "ollama", "model": "a:b", "roles": ["chat", "edit"]}
HEAD = {"name": "Mine", "version": "1.0.0", "schema": "v1"}
TOML = {"model": "a:b", "window": 7, "providers": {"ours": {"name": 'a "b" \\ c', "url": "http://x"}}}


def deep(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    merged = dict(theirs)
    for key, value in ours.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = deep(merged[key], value) if both else value
    return merged


@given(st.dictionaries(WORDS, VALUES), st.dictionaries(WORDS, VALUES), st.sampled_from([None, 2, 4, "\t"]))
def test_objects(theirs: dict[str, Any], ours: dict[str, Any], indent: Any) -> None:
    text = json.dumps(theirs, indent=indent, ensure_ascii=False)
    merged = merged_json(text, ours)
    assert json.loads(merged) == deep(theirs, ours)
    assert merged_json(merged, ours) == merged


@given(st.lists(st.dictionaries(st.sampled_from(["name", "url"]), TEXTS)), TEXTS)
def test_lists(theirs: list[dict[str, str]], name: str) -> None:
    entry = {"name": name, "url": "u"}
    merged = merged_json_list(json.dumps(theirs), entry, "name")
    found = json.loads(merged)
    assert entry in found
    assert [item for item in found if item.get("name") != name] == [item for item in theirs if item.get("name") != name]
    assert merged_json_list(merged, entry, "name") == merged


LINES = ["", "# a", "x = 1", 'model = "old"', "[providers.ours]", "[other]", "[[list]]", "y = 2", 'name = "old" # why']


@given(st.lists(st.sampled_from([*LINES, "window = 3", 'z = """', '"""', "[providers]"]), max_size=9), st.booleans())
def test_tables(lines: list[str], has_crlf: bool) -> None:
    text = "".join(f"{line}\n" for line in lines).replace("\n", "\r\n" if has_crlf else "\n")
    try:
        theirs = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        theirs = None
    try:
        merged = merged_toml(text, TOML)
    except CannotMerge:
        return
    assert theirs is not None
    assert tomllib.loads(merged) == deep(theirs, TOML)
    assert merged_toml(merged, TOML) == merged
    assert all(line in merged for line in lines if line.startswith(("#", "[other", "x", "y")))


def test_tables_keep_comments_and_order() -> None:
    text = '# mine\nmodel = "old"\n\n[other] # theirs\nkey = 1\n\n[providers.ours]\nname = "old"\nextra = true\n'
    assert merged_toml(text, {"model": "new", "providers": {"ours": {"name": "n", "url": "u"}}}) == (
        '# mine\nmodel = "new"\n\n[other] # theirs\nkey = 1\n\n[providers.ours]\nurl = "u"\nname = "n"\nextra = true\n'
    )


MODELS = st.lists(
    st.fixed_dictionaries({"name": WORDS | st.just("Ours"), "model": TEXTS}, optional={"roles": st.lists(WORDS)}),
    max_size=3,
    unique_by=lambda item: item["name"],
)


@given(MODELS, st.dictionaries(WORDS, VALUES, max_size=2), st.booleans(), st.booleans())
def test_models(models: list[dict[str, Any]], others: dict[str, Any], is_last: bool, is_indented: bool) -> None:
    theirs = {**others, "models": models} if is_last else {"models": models, **others}

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, indentless and not is_indented)

    text = yaml.dump(theirs, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
    try:
        merged = merged_yaml_models(text, HEAD, ENTRY)
    except CannotMerge:
        assert not models
        return
    found = yaml.safe_load(merged)
    before = next((item for item in models if item["name"] == "Ours"), None)
    expected = {**before, "provider": ENTRY["provider"], "model": ENTRY["model"]} if before else ENTRY
    assert [item for item in found["models"] if item["name"] == "Ours"] == [expected]
    assert [item for item in found["models"] if item["name"] != "Ours"] == [one for one in models if one is not before]
    assert {key: value for key, value in found.items() if key != "models"} == others
    assert merged_yaml_models(merged, HEAD, ENTRY) == merged


@pytest.mark.parametrize("text", ["", "\n", "# mine\n"])
def test_a_new_list_of_models(text: str) -> None:
    merged = merged_yaml_models(text, HEAD, ENTRY)
    assert merged.startswith(text)
    assert yaml.safe_load(merged) == {**HEAD, "models": [ENTRY]}


def test_models_keep_comments() -> None:
    text = (
        "name: mine\r\nmodels: # all of them\r\n  # the first\r\n  - name: a\r\n    model: b # why\r\n\r\n"
        "  - name: Ours\r\n    model: old\r\n    roles: [chat]\r\n\r\n# the end\r\nrules:\r\n  - name: Ours\r\n"
    )
    assert merged_yaml_models(text, HEAD, ENTRY) == text.replace(
        "    model: old\r\n    roles: [chat]\r\n", '    model: "a:b"\r\n    roles: [chat]\r\n    provider: ollama\r\n'
    )
    without = merged_yaml_models("name: mine\nrules:\n- be brief\n", HEAD, ENTRY)
    assert without.startswith("name: mine\nrules:\n- be brief\nmodels:\n  - name: Ours\n")
    empty = merged_yaml_models("models:\nrules:\n- be brief\n", HEAD, ENTRY)
    assert yaml.safe_load(empty) == {"models": [ENTRY], "rules": ["be brief"]}
