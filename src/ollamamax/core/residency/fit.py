"""How much memory a model needs, computed from its GGUF's facts, and how many slots it gets.

Source: llama.cpp `src/llama-kv-cache.cpp`, `src/llama-kv-cache-iswa.cpp` (cells of a cache) and, for the compute
buffers, measurements of what its graph allocator reserves; a test compares both with a real load.

Deliberate limits: the state of recurrent layers (Mamba and its kin, a few MB a slot) and an image projector's compute
buffers are left out; latent attention (DeepSeek 2 and 3) is counted as if its values had a cache of their own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from ollamamax.core.types import GgufFacts

MIN_CTX_TOKENS: Final = 4
_CELL_STEP: Final = 256
_MAX_UBATCH_TOKENS: Final = 512
_FLOAT_BYTES: Final = 4
_AUTOMATIC_SLOTS: Final = (4, 2, 1)
_KV_BLOCKS: Final[Mapping[str, tuple[int, int]]] = {"f32": (1, 4), "f16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}
"""Cache type -> (elements in a block, bytes of a block)."""

# Of each period of layers the last one sees the whole context, the others a window. Where a GGUF says it itself, that
# holds; an architecture that stands in neither place has whole caches, whatever window it names.
_WINDOW_PERIODS: Final[Mapping[str, int]] = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "cohere2": 4,
    "exaone4": 4,
    "gpt-oss": 2,
}
_WITHOUT_CACHE: Final = frozenset(
    {
        *("bert", "nomic-bert", "nomic-bert-moe", "modern-bert", "neo-bert", "eurobert", "jina-bert-v2"),
        *("jina-bert-v3", "gemma-embedding", "t5encoder"),
    }
)


class MemoryNeed(Struct, frozen=True):
    """What one launch takes, in bytes."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


class Sizing(Struct, frozen=True):
    """A number of slots, and what the model needs with it."""

    parallel: int
    need_bytes: int


def memory_need(
    facts: GgufFacts,
    ctx_tokens: int,
    parallel: int = 1,
    batch_tokens: int = 512,
    kv_cache_type: str = "f16",
    flash_attention: str = "auto",
    extra_files_bytes: int = 0,
) -> MemoryNeed:
    """Memory of one launch. ctx_tokens: per slot.  extra_files_bytes: adapters and projectors.

    weights  = tensor_bytes + extra_files_bytes

    kv       = sum over layers l of  parallel * cells(l) * kv_heads(l) * (row(key_length) + row(value_length))
               cells(l)  = ctx_tokens rounded up to 256; on a layer with a sliding window at most
                           window + ubatch, rounded up to 256
               row(n)    = bytes of n elements: f16 2n, q8_0 34 per 32, q4_0 18 per 32
               Encoders (BERT and its kin) keep no cache.

    compute  = tokens * (4 * max(ffn, attention) + mask * cells) + 2 * 4 * parallel * vocab_size
               ubatch    = batch_tokens, at most 512 unless the model embeds;  tokens = ubatch, at most all contexts
               ffn       = 3 * feed_forward_length + 5 * embedding_length   (gate, up, product; the residual stream)
               attention = 2 * embedding_length + 5 * head_count * key_length   (residual; queries, keys, values, sums),
                           plus head_count * cells without flash attention (the scores)
               mask      = 2 bytes with flash attention, 4 without; cells: of the whole and of the window's cache
               A mixture of experts counts the feed-forward length of the experts used at once.
    """
    is_flash = flash_attention != "off"
    ubatch = batch_tokens if facts.pooling_type is not None else min(batch_tokens, _MAX_UBATCH_TOKENS)
    whole = _rounded(ctx_tokens)
    window = min(whole, _rounded(facts.sliding_window + ubatch))
    row = _row_bytes(facts.key_length, kv_cache_type) + _row_bytes(facts.value_length, kv_cache_type)
    is_windowed = _windowed(facts)
    kv = 0
    if facts.architecture not in _WITHOUT_CACHE:
        cells = ((window if is_windowed(layer) else whole) * heads for layer, heads in enumerate(facts.head_count_kv))
        kv = parallel * row * sum(cells)
    ffn = 3 * _feed_forward(facts) + 5 * facts.embedding_length
    attention = 2 * facts.embedding_length + 5 * facts.head_count * facts.key_length
    attention += 0 if is_flash else facts.head_count * whole
    masked = whole + (window if any(map(is_windowed, range(facts.block_count))) else 0)
    per_token = _FLOAT_BYTES * max(ffn, attention) + (2 if is_flash else 4) * masked
    compute = min(ubatch, ctx_tokens * parallel) * per_token + 2 * _FLOAT_BYTES * parallel * facts.vocab_size
    return MemoryNeed(facts.tensor_bytes + extra_files_bytes, kv, compute)


def context_tokens(asked: int | None, default: int, facts: GgufFacts) -> int:
    """The context of one slot: asked, else the default; at most what the model was trained for, at least 4."""
    wanted = default if asked is None else asked
    if facts.context_length:
        wanted = min(wanted, facts.context_length)
    return max(wanted, MIN_CTX_TOKENS)


def sizings(asked_parallel: int, need_of: Callable[[int], int]) -> tuple[Sizing, ...]:
    """Numbers of slots to try, most first. asked_parallel: 0 = automatic.  need_of: bytes for a number of slots."""
    counts: Iterable[int] = (asked_parallel,) if asked_parallel > 0 else _AUTOMATIC_SLOTS
    return tuple(Sizing(count, need_of(count)) for count in counts)


def choose_parallel(candidates: Sequence[Sizing], room_bytes: float) -> Sizing | None:
    """The first candidate that needs no more than the room; None if none does."""
    return next((sizing for sizing in candidates if sizing.need_bytes <= room_bytes), None)


def _rounded(tokens: int) -> int:
    return -(-tokens // _CELL_STEP) * _CELL_STEP


def _row_bytes(elements: int, kv_cache_type: str) -> int:
    block, block_bytes = _KV_BLOCKS[kv_cache_type]
    return -(-elements // block) * block_bytes


def _windowed(facts: GgufFacts) -> Callable[[int], bool]:
    """Whether a layer keeps only a window of the context."""
    pattern: Any = facts.metadata.get(
        f"{facts.architecture}.attention.sliding_window_pattern", _WINDOW_PERIODS.get(facts.architecture, 0)
    )
    if facts.sliding_window <= 0:
        return lambda _layer: False
    if isinstance(pattern, list):  # one flag per layer; a list too long to be kept is empty here
        return lambda layer: layer < len(pattern) and bool(pattern[layer])
    period = pattern if isinstance(pattern, int) else 0
    return lambda layer: period > 1 and layer % period < period - 1


def _feed_forward(facts: GgufFacts) -> int:
    """Feed-forward width that one token passes through at once."""
    used = facts.metadata.get(f"{facts.architecture}.expert_used_count", 0)
    width = facts.metadata.get(f"{facts.architecture}.expert_feed_forward_length", facts.feed_forward_length)
    experts = used * width if isinstance(used, int) and isinstance(width, int) else 0
    return max(facts.feed_forward_length, experts)
