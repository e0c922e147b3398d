import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gguf_bytes as g
import models
from ollamamax.core.errors import GgufError, GgufForeign, GgufTruncated, GgufUnsupported
from ollamamax.core.modelspec import gguf
from ollamamax.core.modelspec.gguf_reader import MAX_ARRAY_ITEMS
from ollamamax.core.types import GgufFacts

WHOLE = g.llama()


def facts_of(data: bytes) -> GgufFacts:
    return gguf.parse(data, len(data))


def fault_of(data: bytes) -> str:
    with pytest.raises(GgufError) as caught:
        facts_of(data)
    return str(caught.value)


def test_facts_of_a_file_by_the_gguf_package(tmp_path: Path) -> None:
    data = models.write_llama(tmp_path / "m.gguf", pooling=1, template="{{ messages }}").read_bytes()
    facts = facts_of(data)
    assert (facts.architecture, facts.block_count, facts.context_length) == ("llama", 2, 512)
    assert (facts.embedding_length, facts.feed_forward_length, facts.vocab_size) == (64, 128, 259)
    assert (facts.head_count, facts.head_count_kv) == (4, (1, 1))
    assert (facts.key_length, facts.value_length) == (16, 16)
    assert (facts.file_type, facts.pooling_type, facts.sliding_window) == ("F16", 1, 0)
    assert facts.chat_template == "{{ messages }}"
    assert facts.file_bytes == len(data)
    assert facts.parameter_count == sum(models_size(shape) for _, _, shape in facts.tensors)
    assert 0 < len(data) - facts.tensor_bytes < 10_000
    assert ("token_embd.weight", "F16", (64, 259)) in facts.tensors
    assert facts.metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-05
    assert facts.metadata["tokenizer.ggml.tokens"] == []


def models_size(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(version: int) -> None:
    facts = facts_of(g.llama(version=version))
    assert (facts.vocab_size, facts.tensor_bytes, facts.parameter_count) == (9, 64 * 9 * 2 + 64 * 4, 64 * 10)


def test_per_layer_lists_of_any_length() -> None:
    layers = {
        "llama.block_count": (g.U32, 7),
        "llama.attention.head_count_kv": (g.ARRAY, (g.I32, [1, 2, 3, 4, 5, 6, 7])),
    }
    heads = {"llama.attention.head_count": (g.ARRAY, (g.I32, [8, 2, 2, 2, 2, 2, 2]))}
    facts = facts_of(g.llama(layers | heads))
    assert facts.head_count_kv == (1, 2, 3, 4, 5, 6, 7)
    assert (facts.head_count, facts.key_length) == (8, 8)
    assert facts.metadata["llama.attention.head_count_kv"] == []


def test_a_list_longer_than_the_layers_is_cut() -> None:
    assert facts_of(g.llama({"llama.attention.head_count_kv": (g.ARRAY, (g.U32, [1, 2, 3]))})).head_count_kv == (1, 2)


def test_what_is_not_said_has_a_default() -> None:
    said = {"general.architecture": g.LLAMA["general.architecture"]}
    facts = facts_of(g.llama(dict.fromkeys(g.LLAMA) | said, tensors=()))
    assert facts == GgufFacts(
        "llama",
        facts.file_bytes,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        (),
        0,
        0,
        0,
        0,
        None,
        "unknown",
        "",
        {"general.architecture": "llama"},
    )


def test_what_is_said_overrides_the_default() -> None:
    more = {
        "llama.attention.key_length": (g.U32, 32),
        "llama.attention.value_length": (g.U64, 24),
        "llama.attention.sliding_window": (g.U16, 128),
        "llama.vocab_size": (g.U32, 9),
        "llama.attention.head_count_kv": None,
        "general.file_type": (g.U32, 15),
    }
    facts = facts_of(g.llama(more))
    assert (facts.key_length, facts.value_length, facts.sliding_window) == (32, 24, 128)
    assert (facts.head_count_kv, facts.file_type) == ((4, 4), "Q4_K_M")


def test_metadata_keeps_short_arrays_and_all_of_them_if_asked() -> None:
    arrays = {
        "x.short": (g.ARRAY, (g.U8, [1, 2, 3, 4, 5])),
        "x.long": (g.ARRAY, (g.F32, [0.1] * 6)),
        "x.words": (g.ARRAY, (g.STRING, ["a"] * 6)),
        "x.six.attention.head_count": (g.ARRAY, (g.U8, [1] * 6)),
    }
    data = g.llama(arrays)
    short = facts_of(data).metadata
    assert (short["x.short"], short["x.long"], short["x.words"]) == ([1, 2, 3, 4, 5], [], [])
    assert short["x.six.attention.head_count"] == []
    whole = gguf.parse(data, len(data), whole_arrays=True).metadata
    assert (whole["x.long"], whole["x.words"]) == ([0.1] * 6, ["a"] * 6)
    assert whole["tokenizer.ggml.tokens"] == [f"t{index}" for index in range(9)]


@pytest.mark.parametrize(
    ("kind", "written", "read"),
    [
        (g.U8, 255, 255),
        (g.I8, -1, -1),
        (g.U16, 65535, 65535),
        (g.I16, -2, -2),
        (g.I32, -3, -3),
        (g.I64, -4, -4),
        (g.BOOL, True, True),
        (g.F64, 0.1, 0.1),
        (g.F32, 0.1, 0.1),
        (g.F32, 1e6, 1e6),
        (g.F32, 16777217.0, 16777216.0),
        (g.F32, 3.4028234663852886e38, 3.4028235e38),
        (g.F32, float("nan"), None),
        (g.F64, float("-inf"), None),
        (g.STRING, b"\xff", "\ufffd"),
    ],
)
def test_scalars(kind: int, written: object, read: object) -> None:
    assert facts_of(g.llama({"x": (kind, written)})).metadata["x"] == read


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_singles_come_as_the_same_single(number: float) -> None:
    read = facts_of(g.llama({"x": (g.F32, number)})).metadata["x"]
    assert struct.pack("<f", read) == struct.pack("<f", number)
    assert float(f"{read:.9g}") == read, "nine digits are enough"


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b"", "not a GGUF file: it is empty"),
        (b"PK\x03\x04" + bytes(30), "it is a zip archive, perhaps a PyTorch checkpoint"),
        (struct.pack("<Q", 99) + b'{"__metadata__":{}}', "it is a safetensors file"),
        (b"lmgg" + bytes(30), "it is a GGML file from before GGUF"),
        (b"fmgg" + bytes(30), "it is a GGML file from before GGUF"),
        (b"tjgg" + bytes(30), "it is a GGML file from before GGUF"),
        (b"algg" + bytes(30), "it is a GGML adapter from before GGUF"),
        (b"\x1f\x8b\x08" + bytes(30), "it is a gzip archive"),
        (b"\x80\x02}q" + bytes(30), "it is a Python pickle, perhaps a PyTorch checkpoint"),
        (b'{"model_type": "llama"}', "it is JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer, not the file that it points to"),
        (b"<!DOCTYPE html>", "it is a web page or XML"),
        (b"abcdefgh", "it starts with the bytes 61 62 63 64"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(30), "GGUF version 1 is not known here; versions 2 and 3 are"),
        (b"GGUF" + struct.pack("<I", 0) + bytes(30), "GGUF version 0 is not known here"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(30), "the GGUF is big-endian"),
    ],
)
def test_foreign_files_are_told_apart(head: bytes, text: str) -> None:
    with pytest.raises(GgufForeign) as caught:
        facts_of(head)
    assert text in str(caught.value)


def test_missing_tensor_data_is_counted() -> None:
    with pytest.raises(GgufTruncated) as caught:
        facts_of(WHOLE[:-100])
    assert str(caught.value).startswith(f"the GGUF is cut off: 100 of {len(WHOLE)} bytes are missing at its end")


@pytest.mark.parametrize("length", [2, 4, 7])
def test_a_cut_within_the_magic_or_version(length: int) -> None:
    with pytest.raises(GgufTruncated, match=f"only {length} bytes are there"):
        facts_of(WHOLE[:length])


def test_a_cut_within_the_header_names_the_place() -> None:
    with pytest.raises(GgufTruncated, match=r"key 2 of 12 reaches beyond the end of the file \(70 bytes\)"):
        facts_of(WHOLE[:70])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"general.architecture": None}, "no general.architecture"),
        ({"general.architecture": (g.U32, 5)}, "no general.architecture"),
        ({"general.alignment": (g.U32, 0)}, "general.alignment is 0, which is no power of two"),
        ({"general.alignment": (g.U32, 48)}, "general.alignment is 48"),
        ({"llama.block_count": (g.STRING, "two")}, "llama.block_count is 'two', not a count"),
        ({"llama.block_count": (g.BOOL, True)}, "llama.block_count is 'True', not a count"),
        ({"llama.block_count": (g.I32, -1)}, "llama.block_count is '-1', not a count"),
        ({"llama.block_count": (g.U32, 1 << 31)}, "llama.block_count is 2147483648"),
        ({"llama.context_length": (g.U64, 1 << 63)}, "llama.context_length is '9223372036854775808'"),
        ({"llama.context_length": (g.ARRAY, (g.U8, [1] * 6))}, "llama.context_length is 'an array of 6'"),
        ({"llama.attention.head_count_kv": (g.ARRAY, (g.U8, [1]))}, "has 1 entries for 2 layers"),
        ({"llama.attention.head_count_kv": (g.ARRAY, (g.U8, [1] * 5000))}, "'an array of 5000', not a count"),
        ({"x": (g.ARRAY, (g.ARRAY, []))}, "the value of 'x' is an array of arrays"),
    ],
)
def test_damaged_values_are_named(changes: dict[str, g.Value | None], text: str) -> None:
    assert text in fault_of(g.llama(changes))


@pytest.mark.parametrize(
    ("shape", "kind", "text"),
    [
        ((2, 2, 2, 2, 2), 0, "tensor 'w' claims 5 dimensions"),
        ((31,), 2, "tensor 'w' of type Q4_0 has the shape [31]"),
        ((1 << 62, 4), 0, "tensor 'w' of type F32 has the shape"),
    ],
)
def test_damaged_tensors_are_named(shape: tuple[int, ...], kind: int, text: str) -> None:
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + g.string("w") + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    assert text in fault_of(head + struct.pack("<IQ", kind, 0) + bytes(64))


def test_unknown_tensor_types_are_unsupported() -> None:
    with pytest.raises(GgufUnsupported, match="tensor 'w' has the type 4,"):
        facts_of(g.llama(tensors=(("w", (4,), 4),)))


def test_a_scalar_tensor_has_one_element() -> None:
    assert facts_of(g.llama(tensors=(("w", (), 0),))).parameter_count == 1


def header(tensors: int, keys: int, rest: bytes = b"") -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, keys) + rest


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (header(1 << 63, 0), "it claims 9223372036854775808 tensors and 0 keys"),
        (header(0, 1 << 40), "it claims 0 tensors and 1099511627776 keys"),
        (header(0, 1, struct.pack("<Q", (1 << 64) - 1)), "key 1 of 1 reaches beyond the end"),
        (header(0, 1, g.string("x") + struct.pack("<I", 13)), "the value of 'x' is of the unknown type 13"),
        (header(0, 1, g.string("x") + struct.pack("<IIQ", 9, 77, 9)), "the value of 'x' is of the unknown type 77"),
        (header(0, 1, g.string("x") + struct.pack("<IIQ", 9, g.U64, 1 << 61)), "the value of 'x' reaches beyond"),
        (header(0, 1, g.string("x") + struct.pack("<IIQ", 9, g.STRING, 1 << 40)), "claims 1099511627776 strings"),
        (header(0, 1, g.string("x") + struct.pack("<IIQQ", 9, g.STRING, 9, (1 << 64) - 1)), "reaches beyond"),
        (header(0, 1, g.string("x") + struct.pack("<IIQQ", 9, g.STRING, 9, 1 << 62)), "reaches beyond"),
        (header(0, 1, g.string("x") + struct.pack("<IIQQ", 9, g.STRING, 6, 3) + b"a"), "reaches beyond"),
    ],
)
def test_false_counts_cost_nothing(data: bytes, text: str) -> None:
    assert text in fault_of(data)


def test_the_last_string_of_an_array_may_not_reach_out() -> None:
    strings = struct.pack("<IIQ", 9, g.STRING, 6) + g.string("") * 5 + struct.pack("<Q", 2) + b"a"
    assert "reaches beyond" in fault_of(header(0, 1, g.string("x") + strings))


def test_whole_arrays_are_bounded_too() -> None:
    data = header(0, 1, g.string("x") + struct.pack("<IIQ", 9, g.STRING, MAX_ARRAY_ITEMS + 1))
    with pytest.raises(GgufError, match="claims 16777217 strings"):
        gguf.parse(data, len(data), whole_arrays=True)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(GgufError):
        facts_of(WHOLE[:length])


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_give_facts_or_a_gguf_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for position, byte in changes:
        data[position] = byte
    for whole_arrays in (False, True):
        try:
            facts = gguf.parse(bytes(data), len(data), whole_arrays)
        except GgufError:
            continue
        assert isinstance(facts, GgufFacts)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return models.write_llama(tmp_path_factory.mktemp("gguf") / "m.gguf", width=16, layers=1).read_bytes()


@given(st.data())
def test_a_packaged_file_cut_or_changed(packaged: bytes, data: st.DataObject) -> None:
    header_end = len(packaged) - facts_of(packaged).tensor_bytes
    position, byte = data.draw(st.integers(0, header_end - 1)), data.draw(st.integers(0, 255))
    fault_of(packaged[:position])
    changed = packaged[:position] + bytes([byte]) + packaged[position + 1 :]
    try:
        facts = facts_of(changed)
    except GgufError:
        return
    assert facts.file_bytes == len(packaged)


@given(st.binary(max_size=200))
def test_any_header_gives_facts_or_a_gguf_error(rest: bytes) -> None:
    try:
        facts_of(b"GGUF\x03\0\0\0" + rest)
    except GgufError:
        return


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0"), (999, "999"), (1000, "1K"), (115_392, "115K"), (22_713_216, "22.71M"), (22_000_000, "22M")),
        *((134_515_008, "134.52M"), (3_212_749_888, "3.2B"), (7_000_000_000, "7B"), (70_553_706_496, "70.6B")),
    ],
)
def test_parameter_sizes_for_people(count: int, text: str) -> None:
    assert gguf.parameter_size(count) == text
