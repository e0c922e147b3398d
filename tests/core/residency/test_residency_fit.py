from typing import Any

import pytest

from ollamamax.core.residency.fit import MemoryNeed, Sizing, choose_parallel, context_tokens, memory_need, sizings
from ollamamax.core.types import GgufFacts


def facts(**changes: Any) -> GgufFacts:
    values: dict[str, Any] = {
        "architecture": "llama",
        "file_bytes": 2_000,
        "tensor_bytes": 1_000,
        "parameter_count": 500,
        "block_count": 4,
        "context_length": 8192,
        "embedding_length": 256,
        "feed_forward_length": 1024,
        "head_count": 8,
        "head_count_kv": (2, 2, 2, 2),
        "key_length": 32,
        "value_length": 32,
        "vocab_size": 2000,
    }
    return GgufFacts(**(values | changes))


def test_weights_are_tensors_and_other_files() -> None:
    assert memory_need(facts(), 4096).weights_bytes == 1_000
    assert memory_need(facts(), 4096, extra_files_bytes=77).weights_bytes == 1_077


@pytest.mark.parametrize(
    ("ctx_tokens", "parallel", "kind", "expected"),
    [
        (4096, 1, "f16", 4 << 20),
        (4096, 4, "f16", 16 << 20),
        (4000, 2, "f16", 8 << 20),  # cells come in steps of 256
        (1, 1, "f16", 256 * 4 * 2 * 2 * 64),
        (4096, 1, "f32", 8 << 20),
        (32768, 1, "q8_0", 17 << 20),
        (32768, 1, "q4_0", 9 << 20),
    ],
)
def test_kv_bytes(ctx_tokens: int, parallel: int, kind: str, expected: int) -> None:
    assert memory_need(facts(), ctx_tokens, parallel, kv_cache_type=kind).kv_bytes == expected


def test_kv_counts_each_layers_own_heads() -> None:
    assert memory_need(facts(head_count_kv=(4, 0, 1, 0)), 256).kv_bytes == 256 * 5 * 64 * 2


def test_rows_of_odd_length_fill_whole_blocks() -> None:
    need = memory_need(facts(head_count_kv=(1,), key_length=33, value_length=0), 256, kv_cache_type="q8_0")
    assert need.kv_bytes == 256 * 2 * 34


def test_encoders_keep_no_cache() -> None:
    assert memory_need(facts(architecture="bert", pooling_type=1), 512).kv_bytes == 0


@pytest.mark.parametrize(
    ("changes", "windowed_layers"),
    [
        ({"architecture": "llama"}, ()),  # names a window, but the engine gives it whole caches
        ({"architecture": "gemma2"}, (0, 2)),
        ({"architecture": "gemma3"}, (0, 1, 2, 3)),
        ({"architecture": "x", "metadata": {"x.attention.sliding_window_pattern": 4}}, (0, 1, 2)),
        ({"architecture": "x", "metadata": {"x.attention.sliding_window_pattern": 1}}, ()),
        ({"architecture": "x", "metadata": {"x.attention.sliding_window_pattern": [True, False, True]}}, (0, 2)),
        ({"architecture": "x", "metadata": {"x.attention.sliding_window_pattern": []}}, ()),
        ({"architecture": "x", "metadata": {"x.attention.sliding_window_pattern": "?"}}, ()),
    ],
)
def test_layers_with_a_window(changes: dict[str, Any], windowed_layers: tuple[int, ...]) -> None:
    need = memory_need(facts(sliding_window=1000, **changes), 8192)
    cells = sum(1536 if layer in windowed_layers else 8192 for layer in range(4))  # 1000 + 512, rounded up
    assert need.kv_bytes == cells * 2 * 64 * 2


def test_a_window_larger_than_the_context_saves_nothing() -> None:
    windowed = memory_need(facts(architecture="gemma2", sliding_window=4096), 2048)
    assert windowed.kv_bytes == memory_need(facts(architecture="gemma2"), 2048).kv_bytes


def test_compute_bytes() -> None:
    # 512 tokens through a feed-forward of 3 * 1024 + 5 * 256, the mask, the last logits
    assert memory_need(facts(), 4096).compute_bytes == 512 * (4 * 4352 + 2 * 4096) + 8 * 2000
    assert memory_need(facts(), 4096, flash_attention="off").compute_bytes == (
        512 * (4 * (2 * 256 + 5 * 256 + 8 * 4096) + 4 * 4096) + 8 * 2000
    )
    assert memory_need(facts(), 16).compute_bytes == 16 * (4 * 4352 + 2 * 256) + 8 * 2000
    windowed = memory_need(facts(architecture="gemma2", sliding_window=1024), 4096)
    assert windowed.compute_bytes == 512 * (4 * 4352 + 2 * (4096 + 1536)) + 8 * 2000


def test_only_embedding_models_take_their_batch_whole() -> None:
    large = memory_need(facts(), 4096, batch_tokens=2048)
    assert large == memory_need(facts(), 4096, batch_tokens=512)
    embedding = memory_need(facts(pooling_type=1), 4096, batch_tokens=2048)
    assert embedding.compute_bytes == 2048 * (4 * 4352 + 2 * 4096) + 8 * 2000


@pytest.mark.parametrize(
    ("metadata", "width"),
    [
        ({"llama.expert_used_count": 4, "llama.expert_feed_forward_length": 512}, 2048),
        ({"llama.expert_used_count": 2}, 2048),
        ({"llama.expert_used_count": 2, "llama.expert_feed_forward_length": []}, 1024),
        ({"llama.expert_used_count": 1, "llama.expert_feed_forward_length": 64}, 1024),
    ],
)
def test_experts_in_use_count(metadata: dict[str, Any], width: int) -> None:
    need = memory_need(facts(metadata=metadata), 256)
    assert need.compute_bytes == 256 * (4 * (3 * width + 5 * 256) + 2 * 256) + 8 * 2000


def test_total() -> None:
    assert MemoryNeed(1, 20, 300).total_bytes == 321


@pytest.mark.parametrize(
    ("asked", "trained", "expected"),
    [(None, 8192, 4096), (100, 8192, 100), (99_999, 8192, 8192), (1, 8192, 4), (-5, 8192, 4), (99_999, 0, 99_999)],
)
def test_context_tokens(asked: int | None, trained: int, expected: int) -> None:
    assert context_tokens(asked, 4096, facts(context_length=trained)) == expected


def test_sizings() -> None:
    assert sizings(0, lambda slots: 10 * slots) == (Sizing(4, 40), Sizing(2, 20), Sizing(1, 10))
    assert sizings(7, lambda slots: 10 * slots) == (Sizing(7, 70),)


@pytest.mark.parametrize(("room", "slots"), [(100, 4), (40, 4), (39, 2), (19.9, 1), (10, 1)])
def test_choose_parallel(room: float, slots: int) -> None:
    chosen = choose_parallel(sizings(0, lambda count: 10 * count), room)
    assert chosen is not None
    assert chosen.parallel == slots


def test_choose_parallel_without_room() -> None:
    assert choose_parallel(sizings(0, lambda count: 10 * count), 9.9) is None
