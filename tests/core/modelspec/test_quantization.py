"""Which type each tensor gets. Expected mixtures: as llama.cpp's own tool chooses them."""

from typing import Any

import pytest

import gguf_bytes as g
from ollamamax.core.errors import BadRequest
from ollamamax.core.modelspec import assembly, gguf
from ollamamax.core.modelspec.assembly import Assembly
from ollamamax.core.modelspec.ggml_types import TENSOR_TYPES
from ollamamax.core.modelspec.gguf_layout import layout
from ollamamax.core.modelspec.quantization import check, normalised, quantized

Shapes = dict[str, tuple[tuple[int, ...], int]]


def mixture(quantize: str, tensors: Shapes, architecture: str = "llama", **metadata: Any) -> dict[str, str]:
    """name -> type, as it stands in the new header."""
    changes = {"general.architecture": (g.STRING, architecture)}
    for key, value in {"block_count": 2, "attention.head_count": 4, "attention.head_count_kv": 2, **metadata}.items():
        changes[f"{architecture}.{key}"] = (g.U32, value)
    data = g.llama(changes, tuple((name, shape, kind) for name, (shape, kind) in tensors.items()))
    found = layout(data, len(data))
    made: Assembly = quantized(assembly.of_ggufs({"m": found}), found.facts, quantize)
    head = made.header()
    facts = gguf.parse(head, made.size_bytes())
    assert facts.file_type == normalised(quantize)
    assert facts.metadata["general.quantization_version"] == 2
    return {name: kind for name, kind, _ in facts.tensors}


def layers(count: int, *names: str, kind: int = 1) -> Shapes:
    return {f"blk.{layer}.{name}.weight": ((256, 8), kind) for layer in range(count) for name in names}


def kinds_of(found: dict[str, str], name: str, count: int) -> list[str]:
    return [found[f"blk.{layer}.{name}.weight"] for layer in range(count)]


OUTER: Shapes = {"token_embd.weight": ((256, 8), 1), "output.weight": ((256, 8), 1)}


def test_sensitive_layers_get_more_bits() -> None:
    shapes = OUTER | layers(16, "attn_v", "attn_q", "ffn_down")
    found = mixture("q4_K_M", shapes)
    more = {0, 1, 4, 7, 10, 13, 14, 15}
    expected = ["Q6_K" if layer in more else "Q4_K" for layer in range(16)]
    assert kinds_of(found, "attn_v", 16) == expected
    assert kinds_of(found, "ffn_down", 16) == expected
    assert set(kinds_of(found, "attn_q", 16)) == {"Q4_K"}
    assert (found["output.weight"], found["token_embd.weight"]) == ("Q6_K", "Q4_K")
    small = mixture("Q4_K_S", shapes)
    assert kinds_of(small, "attn_v", 16) == ["Q5_K"] * 4 + ["Q4_K"] * 12
    assert kinds_of(small, "ffn_down", 16) == ["Q5_K"] * 2 + ["Q4_K"] * 14
    assert set(mixture("q8_0", shapes).values()) == {"Q8_0"}


def test_tied_embeddings_stand_in_for_the_output() -> None:
    assert mixture("Q4_K", {"token_embd.weight": ((256, 8), 1)}) == {"token_embd.weight": "Q6_K"}
    assert mixture("Q4_K_S", {"token_embd.weight": ((64, 8), 0)}) == {"token_embd.weight": "Q8_0"}
    assert mixture("Q8_0", {"token_embd.weight": ((256, 8), 0)}) == {"token_embd.weight": "Q8_0"}


def test_eight_experts() -> None:
    shapes = OUTER | layers(8, "attn_v", "attn_k", "attn_output", "ffn_down_exps", "ffn_gate_inp")
    found = mixture("Q4_K_M", shapes, expert_count=8)
    assert set(kinds_of(found, "attn_v", 8)) == set(kinds_of(found, "attn_k", 8)) == {"Q8_0"}
    assert set(kinds_of(found, "attn_output", 8)) == {"Q5_K"}
    assert set(kinds_of(found, "ffn_gate_inp", 8)) == {"F16"}
    assert kinds_of(found, "ffn_down_exps", 8) == ["Q6_K" if n in (0, 3, 6, 7) else "Q4_K" for n in range(8)]
    plain = mixture("Q4_K_M", shapes)
    assert set(kinds_of(plain, "attn_k", 8)) == set(kinds_of(plain, "attn_output", 8)) == {"Q4_K"}


def test_falcon() -> None:
    shapes = OUTER | layers(16, "attn_qkv", "attn_output", "ffn_down")
    found = mixture("Q4_K_M", shapes, "falcon")
    assert found["output.weight"] == "Q8_0"
    more = {1, 4, 7, 10, 13, 14, 15}
    assert kinds_of(found, "ffn_down", 16) == ["Q6_K"] + ["Q5_K" if layer in more else "Q4_K" for layer in range(1, 16)]
    assert set(kinds_of(mixture("Q4_K_S", shapes, "falcon"), "ffn_down", 16)) == {"Q4_K"}


def test_many_heads_that_share_values() -> None:
    shapes = OUTER | layers(16, "attn_v")
    found = mixture("Q4_K_M", shapes, block_count=80)
    assert set(found.values()) == {"Q4_K", "Q5_K", "Q6_K"}
    assert kinds_of(found, "attn_v", 16).count("Q5_K") == 8
    assert "Q5_K" not in mixture("Q4_K_M", shapes, block_count=80, **{"attention.head_count_kv": 4}).values()


@pytest.mark.parametrize(
    ("width", "quantize", "expected"),
    [(96, "Q4_K_M", "Q5_0"), (100, "Q4_K_M", "F16"), (100, "Q8_0", "F16"), (96, "Q8_0", "Q8_0"), (100, "F32", "F32")],
)
def test_odd_rows_get_smaller_blocks(width: int, quantize: str, expected: str) -> None:
    shapes: Shapes = {"output.weight": ((256, 8), 1), "blk.0.attn_q.weight": ((width, 8), 1)}
    assert mixture(quantize, shapes)["blk.0.attn_q.weight"] == expected


def test_odd_rows_of_sensitive_tensors() -> None:
    shapes = OUTER | {"blk.0.attn_v.weight": ((96, 8), 1)}
    assert mixture("Q4_K_S", shapes)["blk.0.attn_v.weight"] == "Q5_1"
    assert (
        mixture("Q4_K_M", OUTER | {f"blk.{n}.attn_v.weight": ((96, 8), 1) for n in range(3)})["blk.2.attn_v.weight"]
        == "Q8_0"
    )


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("output_norm.weight", (256,), 0),
        ("blk.0.attn_norm.weight", (256, 2), 0),
        ("blk.0.attn_q.bias", (256, 2), 0),
        ("blk.0.attn_q.weight", (256, 1), 0),
        ("position_embd.weight", (256, 4), 1),
        ("token_types.weight", (256, 4), 1),
        ("blk.0.ssm_conv1d.weight", (256, 4), 0),
        ("blk.0.attn_k.weight", (32, 4), 2),
    ],
)
def test_what_stays_as_it_is(name: str, shape: tuple[int, ...], kind: int) -> None:
    shapes = OUTER | {name: (shape, kind)}
    for quantize in ("Q4_K_M", "F16"):
        assert mixture(quantize, shapes)[name] == TENSOR_TYPES[kind][0]


def test_odd_names() -> None:
    """Layers are what names say; a name that says none is the first."""
    found = mixture("Q4_K_S", OUTER | {"ffn_down.weight": ((256, 8), 1)}, expert_count=2)
    assert found["ffn_down.weight"] == "Q4_K"


def test_what_can_be_asked() -> None:
    for name in ("", "q8_0", "Q4_K", "q4_k_m", "Q4_K_S", "f16", "F32", "bf16"):
        check(name)
    with pytest.raises(BadRequest, match="unsupported quantization type Q2_K - supported types are F32, F16, Q4_K_S"):
        check("q2_k")
