"""GGUFs made of GGUFs: where things are, what is written, and parts that belong together."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gguf_bytes as g
from ollamamax.core.errors import BadRequest, GgufError
from ollamamax.core.modelspec import assembly, gguf, gguf_writer, split_gguf
from ollamamax.core.modelspec.gguf_layout import layout
from ollamamax.core.types import GgufFacts
from split_files import split

TENSORS = (("a.weight", (4, 3), 0), ("b.weight", (8,), 0), ("c.weight", (32, 2), 2))


def of(data: bytes) -> assembly.Assembly:
    return assembly.of_ggufs({"m": layout(data, len(data))})


def built(made: assembly.Assembly, sources: dict[str, bytes]) -> bytes:
    data = made.header()
    for tensor in made.tensors:
        data += sources[tensor.file][tensor.offset : tensor.offset + tensor.source_bytes]
        data += bytes(-len(data) % 32)
    return data


@pytest.mark.parametrize("alignment", [32, 64])
def test_a_whole_one_stays_what_it_is(alignment: int) -> None:
    changes = {"general.alignment": (g.U32, alignment)} if alignment != 32 else {}
    data = g.llama(changes, TENSORS, alignment=alignment)
    if alignment != 32:
        start = len(data) - 3 * alignment
        data = data[:start] + bytes(range(1, 3 * alignment + 1))
    made = of(data)
    new = built(made, {"m": data})
    assert len(new) == made.size_bytes()
    before, after = gguf.parse(data, len(data)), gguf.parse(new, len(new))
    changed = {"file_bytes", "metadata"}
    assert {k: v for k, v in msgspec.structs.asdict(before).items() if k not in changed} == {
        k: v for k, v in msgspec.structs.asdict(after).items() if k not in changed
    }
    assert set(before.metadata) - set(after.metadata) <= {"general.alignment"}
    for old, fresh in zip(layout(data, len(data)).tensors, layout(new, len(new)).tensors, strict=True):
        assert data[old.offset : old.offset + old.size_bytes] == new[fresh.offset : fresh.offset + fresh.size_bytes]


@given(
    st.dictionaries(st.text(min_size=1).filter(lambda key: key != "general.alignment"), st.text()),
    st.lists(st.text()),
    st.lists(st.integers(-(1 << 31), (1 << 31) - 1)),
)
def test_what_is_written_is_read(values: dict[str, str], words: list[str], numbers: list[int]) -> None:
    pairs = {key: gguf_writer.text(value) for key, value in values.items()}
    pairs |= {
        "general.architecture": gguf_writer.text("llama"),
        "words": gguf_writer.texts(words),
        "numbers": gguf_writer.i32s(numbers),
        "halves": gguf_writer.f32s([0.5, -0.25]),
        "yes": gguf_writer.boolean(True),
        "count": gguf_writer.u32(7),
        "half": gguf_writer.f32(0.5),
        "general.alignment": gguf_writer.u32(64),
    }
    data = gguf_writer.header(pairs, [("x", 0, (3, 2))]) + bytes(32)
    read = gguf.parse(data, len(data), whole_arrays=True)
    expected: dict[str, Any] = {
        "general.architecture": "llama",
        "words": words,
        "numbers": numbers,
        "halves": [0.5, -0.25],
    }
    expected |= {"yes": True, "count": 7, "half": 0.5}
    assert {key: read.metadata[key] for key in expected} == expected
    assert "general.alignment" not in read.metadata
    assert read.tensors == (("x", "F32", (3, 2)),)


# --- parts --------------------------------------------------------------------------------------------------------


def part(number: int, count: int, **changes: Any) -> bytes:
    said = {"split.no": (g.U16, number), "split.count": (g.U16, count), **changes}
    if number:
        said |= dict.fromkeys(g.LLAMA)
    return g.llama(said, (TENSORS[number],))


def merged(**files: bytes) -> assembly.Assembly:
    return assembly.of_ggufs({name: layout(data, len(data)) for name, data in files.items()})


def test_parts_are_put_together_in_their_order() -> None:
    files = {"z": part(0, 3), "a": part(2, 3), "m": part(1, 3)}
    made = merged(**files)
    assert [tensor.name for tensor in made.tensors] == ["a.weight", "b.weight", "c.weight"]
    assert not [key for key in made.pairs if key.startswith("split")]
    new = built(made, files)
    assert gguf.parse(new, len(new)).tensor_bytes == 4 * 3 * 4 + 8 * 4 + 64 // 32 * 18


def test_a_part_alone_says_nothing_of_the_model() -> None:
    data = part(1, 2)
    facts = gguf.parse(data, len(data))
    assert (facts.architecture, split_gguf.count_of(facts)) == ("", 2)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"x-00002-of-00003.gguf": (1, 3)}, "these are missing: x-00001-of-00003.gguf, x-00003-of-00003.gguf"),
        ({"x": (0, 3), "y": (2, 3)}, "x is one of 3 parts, and these are missing: number 2 of 3"),
        ({"x": (0, 2), "y": (0, 2)}, "a part of the GGUF comes twice, or is not of the same file: x, y"),
        ({"x": (0, 2), "y": (2, 2)}, "a part of the GGUF comes twice"),
        ({"x": (0, 2), "y": (1, 3)}, "these are not the parts of one GGUF: x, y"),
    ],
)
def test_parts_that_are_no_whole(files: dict[str, tuple[int, int]], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        merged(**{name: part(*numbers) for name, numbers in files.items()})
    assert text in str(caught.value)


def test_parts_that_do_not_match() -> None:
    with pytest.raises(GgufError, match="hold a tensor twice"):
        merged(x=part(0, 2), y=g.llama({"split.no": (g.U16, 1), "split.count": (g.U16, 2)}, (TENSORS[0],)))
    with pytest.raises(GgufError, match="hold 2 tensors, and the first one says 5"):
        merged(x=part(0, 2, **{"split.tensors.count": (g.I32, 5)}), y=part(1, 2))
    with pytest.raises(BadRequest, match=r"general\.architecture is missing"):
        merged(x=g.llama({**dict.fromkeys(g.LLAMA), "split.no": (g.U16, 0)}, TENSORS))


def test_names_of_parts() -> None:
    assert split_gguf.siblings("a/m-00002-of-00003.gguf") == tuple(f"a/m-0000{n}-of-00003.gguf" for n in (1, 2, 3))
    for name in ("m.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-1-of-3.gguf", "m-00001-of-09999.gguf"):
        assert split_gguf.siblings(name) == (name,)
    assert split_gguf.missing(["m-00002-of-00003", "m-00003-of-00003", "x"]) == ["m-00001-of-00003"]


def test_a_split_by_the_gguf_package(tmp_path: Path) -> None:
    import models

    whole = models.write_llama(tmp_path / "w.gguf")
    data = {name: path.read_bytes() for name, path in split(whole, 3).items()}
    new = built(merged(**data), data)
    one, other = gguf.parse(new, len(new)), gguf.parse(whole.read_bytes(), whole.stat().st_size)
    assert sorted(one.tensors) == sorted(other.tensors)
    assert one.metadata == other.metadata
    assert isinstance(one, GgufFacts)
