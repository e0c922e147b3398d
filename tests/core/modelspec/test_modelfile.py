from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.errors import BadRequest
from ollamamax.core.modelspec import modelfile
from ollamamax.core.modelspec.modelfile import Modelfile
from ollamamax.core.options import OPTION_TYPES, RETIRED
from ollamamax.core.types import Message

EVERYTHING = '''# a comment
from ./model.gguf
FROM ./projector.gguf
Adapter ./lora.gguf
DRAFT ./draft.gguf

TEMPLATE """{{ if .System }}{{ .System }}
{{ end }}{{ .Prompt }}"""
SYSTEM "You are
"quoted"."
PARAMETER temperature 0.5
PARAMETER stop <|a|>
PARAMETER stop "<|b|> "
PARAMETER num_ctx  4096
PARAMETER mirostat 2
MESSAGE user Hello # not a comment
MESSAGE assistant """Hi
there"""
LICENSE one
LICENSE two
RENDERER qwen3-coder
PARSER qwen3-coder
REQUIRES v0.14.0
'''
READ = Modelfile(
    sources=("./model.gguf", "./projector.gguf"),
    adapters=("./lora.gguf",),
    drafts=("./draft.gguf",),
    template="{{ if .System }}{{ .System }}\n{{ end }}{{ .Prompt }}",
    system='You are\n"quoted".',
    renderer="qwen3-coder",
    parser="qwen3-coder",
    requires="0.14.0",
    parameters={"temperature": 0.5, "stop": ["<|a|>", "<|b|> "], "num_ctx": 4096},
    messages=(Message("user", "Hello # not a comment"), Message("assistant", "Hi\nthere")),
    licenses=("one", "two"),
    warnings=("parameter mirostat is deprecated",),
)


def test_every_command_is_read() -> None:
    assert modelfile.parse(EVERYTHING) == READ


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_other_line_ends(ends: str) -> None:
    read = modelfile.parse(f"# x{ends}{ends}FROM a{ends}SYSTEM b{ends}")
    assert (read.sources, read.system) == (("a",), "b")


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(b"", "utf-8"), (b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")],
)
def test_bytes_in_any_usual_encoding(mark: bytes, encoding: str) -> None:
    assert modelfile.parse(mark + "FROM a\nSYSTEM über".encode(encoding)).system == "über"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("SYSTEM plain text  ", "plain text"),
        ("SYSTEM    plain", "plain"),
        ("SYSTEM\tplain", "plain"),
        ("SYSTEM ", ""),
        ('SYSTEM ""', ""),
        ('SYSTEM """"""', ""),
        ('SYSTEM " edges "', " edges "),
        ('SYSTEM "two\n\nlines"', "two\n\nlines"),
        ('SYSTEM "a" and "b"', 'a" and "b'),
        ('SYSTEM "a" and\nb"', 'a" and\nb'),
        ('SYSTEM """a "b" """', 'a "b" '),
        ('SYSTEM """ends with a quote""""', 'ends with a quote"'),
        ('SYSTEM """not yet""" here\nbut here"""  ', 'not yet""" here\nbut here'),
        ('SYSTEM say "x"', 'say "x"'),
        ("SYSTEM 'single'", "'single'"),
        ("SYSTEM a\u200db\x00c\td", "abc\td"),
    ],
)
def test_values(line: str, value: str) -> None:
    assert modelfile.parse(f"{line}\nFROM a").system == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no FROM line"),
        ("# FROM a", "no FROM line"),
        ("SYSTEM a", "no FROM line"),
        ("FROM a\nFROMAGE b", '(line 2): command must be one of "from", "license", "template", "system", "adapter", '),
        ("\r\n\r\nFROM", '(line 3): command must be one of "from"'),
        ("FROM: a", "(line 1): command must be"),
        ("FROM a\n\nMESSAGE tool hi", '(line 3): message role must be one of "system", "user", or "assistant"'),
        ("MESSAGE User hi\nFROM a", "(line 1): message role must be"),
        ("MESSAGE user", "(line 1): message role must be"),
        ("PARAMETER num-ctx 1", "(line 1): unexpected EOF: a parameter needs a name"),
        ("PARAMETER num_ctx", "(line 1): unexpected EOF"),
        ("PARAMETER warmth 1", "unknown parameter 'warmth'"),
        ("PARAMETER num_ctx many", "invalid int value [many]"),
        ('FROM a\nSYSTEM """never\nclosed', "(line 2): unexpected EOF: the quotes that open here are never closed"),
        ('SYSTEM "a" b\nFROM c', "(line 1): unexpected EOF"),
        ("REQUIRES soon\nFROM a", "requires must be a valid semver (e.g. 0.14.0)"),
    ],
)
def test_what_is_wrong_is_told(text: str, fault: str) -> None:
    with pytest.raises(BadRequest) as caught:
        modelfile.parse(text)
    assert str(caught.value).startswith(fault)


@given(st.text(alphabet='FROMSYTEPA from"#\n\r\t:x1\u200d{}', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read = modelfile.parse("FROM a\n" + text)
    except BadRequest:
        return
    assert read.sources[0] == "a"


@given(st.binary(max_size=60), st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"]))
def test_any_bytes_are_read_or_refused(data: bytes, mark: bytes) -> None:
    for text in (mark + data, mark + b"FROM a\n" + data):
        try:
            read = modelfile.parse(text)
        except BadRequest:
            continue
        assert read.sources


@given(
    st.sampled_from(sorted(OPTION_TYPES.keys() | RETIRED)), st.text(alphabet='0123456789+-.eEtrufals"x ', max_size=24)
)
def test_any_parameter_is_read_or_refused(name: str, value: str) -> None:
    try:
        read = modelfile.parse(f"FROM a\nPARAMETER {name} {value}")
    except BadRequest:
        return
    assert bool(read.warnings) == (name in RETIRED)
    assert set(read.parameters) == ({name} - RETIRED)


def test_the_text_that_show_prints() -> None:
    text = modelfile.write(
        header_name="mine:latest",
        sources=["/blobs/sha256-a", "/blobs/sha256-p"],
        adapters=["/blobs/sha256-l"],
        template='{{ .Prompt }}\n"x"',
        system=" edges ",
        renderer="r",
        parser="p",
        requires="0.14.0",
        parameters={"temperature": 1.0, "stop": ["<|a|>", "\n"], "num_ctx": 2_000_000},
        licenses=["MIT\nfree"],
        messages=[Message("user", "hi")],
    )
    assert text == (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        "# FROM mine:latest\n"
        "\n"
        "FROM /blobs/sha256-a\n"
        "FROM /blobs/sha256-p\n"
        "ADAPTER /blobs/sha256-l\n"
        'TEMPLATE """{{ .Prompt }}\n"x""""\n'
        'SYSTEM " edges "\n'
        "RENDERER r\n"
        "PARSER p\n"
        "REQUIRES 0.14.0\n"
        "PARAMETER num_ctx 2000000\n"
        "PARAMETER stop <|a|>\n"
        'PARAMETER stop "\n"\n'
        "PARAMETER temperature 1\n"
        'LICENSE "MIT\nfree"\n'
        "MESSAGE user hi\n"
    )


def test_a_model_without_texts() -> None:
    text = modelfile.write(header_name="a:latest", sources=["b"], parameters={})
    assert text.splitlines()[3:] == ["", "FROM b"]


# A text that holds three quotes before a line's end has no form in a Modelfile.
TEXT = st.text(alphabet='abc \t\n"#{}é<|>', max_size=40).filter(lambda text: '"""' not in text)


@given(st.none() | TEXT, TEXT, st.lists(TEXT.filter(bool), max_size=3), st.lists(TEXT, max_size=2))
def test_what_is_written_is_read_back(template: str | None, system: str, stop: list[str], licenses: list[str]) -> None:
    parameters = {"stop": stop, "num_ctx": 4096, "temperature": 0.25} if stop else {"num_ctx": 4096}
    messages = (Message("user", system), Message("assistant", "fine"))
    text = modelfile.write(
        header_name="a:latest",
        sources=["b"],
        template=template,
        system=system,
        parameters=parameters,
        licenses=licenses,
        messages=messages,
    )
    read = modelfile.parse(text)
    assert (read.template, read.system or "", read.licenses) == (template, system, tuple(licenses))
    assert (read.parameters, read.messages) == (parameters, messages)


WORD = st.from_regex(r"[a-z][a-z0-9.:/_-]{0,20}", fullmatch=True)
SAID = st.fixed_dictionaries(
    {
        "sources": st.lists(WORD, min_size=1, max_size=3),
        "parameters": st.fixed_dictionaries(
            {},
            optional={
                "num_ctx": st.integers(-(1 << 53), 1 << 53),
                "seed": st.integers(-(1 << 53), 1 << 53),
                "temperature": st.floats(-1e6, 1e6, width=32),
                "top_p": st.floats(0, 1, width=32),
                "use_mmap": st.booleans(),
                "stop": st.lists(TEXT.filter(bool), min_size=1, max_size=3),
            },
        ),
    },
    optional={
        "adapters": st.lists(WORD, max_size=2),
        "template": TEXT,
        "system": TEXT.filter(bool),
        "renderer": WORD,
        "parser": WORD,
        "requires": st.sampled_from(["0.14.0", "1.2", "3"]),
        "licenses": st.lists(TEXT, max_size=2),
        "messages": st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=3),
    },
)


@given(SAID)
def test_every_command_that_is_written_is_read_back(said: dict[str, Any]) -> None:
    read = modelfile.parse(modelfile.write(header_name="a:latest", **said))
    for field, value in said.items():
        got = getattr(read, field)
        assert got == (tuple(value) if isinstance(value, list) else value), field
    assert not read.warnings
    assert read == modelfile.parse(modelfile.write(header_name="b:latest", **said))
