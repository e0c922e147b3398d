"""What a request will cost on an engine, and the moving averages that this is predicted from.

Prompt tokens are estimated as characters / 4, the usual figure for English text and byte-pair vocabularies; prompts
in other scripts take up to four times as many. It only has to be equally wrong for all engines.

Deliberate limits: one set of rates per engine, whatever the model; rates are per stream and do not fall with the
number of streams; cached prefixes are not foreseen. A learning router will do better.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from ollamamax.core.types import EngineFacts, EngineModel

CHARS_PER_TOKEN: Final = 4
IMAGE_TOKENS: Final = 768
"""Of one image; the figure that Ollama's own estimate uses."""
MIN_LEFT_TOKENS: Final = 32
"""At least so many tokens are thought to be left of each request in flight: an answer that has outgrown its
prediction is not about to end."""


class RoutingConfig(Struct, frozen=True, kw_only=True):
    """What is assumed where nothing was measured.

    prefill_tps, decode_tps: of an engine without figures; somewhat better than a CPU with a small model, so that
    an engine that was just attached is tried soon.  load_base_ms, load_bytes_per_ms: starting an engine process,
    and reading weights from an SSD at 1 GB/s.  unknown_size_bytes: of a model whose size is not told: 8 billion
    weights at four bits.  output_tokens: of an answer that nothing bounds.  peer_ttft_ms: what asking another node
    costs on top; above all it has equal engines of this node come first.  transfer_bytes_per_ms: for a model that
    has to be fetched from another node, a network of 1 Gbit/s.
    """

    prefill_tps: float = 500.0
    decode_tps: float = 30.0
    load_base_ms: float = 1_000.0
    load_bytes_per_ms: float = 1_000_000.0
    unknown_size_bytes: int = 5 << 30
    output_tokens: int = 256
    peer_ttft_ms: float = 1.0
    transfer_bytes_per_ms: float = 100_000.0


class RequestFacts(Struct, frozen=True, gc=False):
    """What routing knows of a request. queued_tokens: predicted output of the requests that wait for the same model."""

    model_key: str
    prompt_tokens: int = 0
    output_tokens: int = 0
    queued_tokens: int = 0


class Prediction(Struct, frozen=True, gc=False):
    """For one request on one engine.

    wait_ms: until a slot frees.  load_ms: until the model is in memory.  ttft_ms: until the first token, both
    included.  tpot_ms: per token after it.  work_ms: what the engine has to do before this request is done, as if
    it produced one stream at a time.
    """

    wait_ms: float
    load_ms: float
    ttft_ms: float
    tpot_ms: float
    work_ms: float


def prompt_tokens(texts: Iterable[str], images: int = 0) -> int:
    """Estimated tokens of a prompt's texts and images; at least 1."""
    return max(1, sum(map(len, texts)) // CHARS_PER_TOKEN + images * IMAGE_TOKENS)


def predict(
    request: RequestFacts,
    facts: EngineFacts,
    model: EngineModel,
    slots: int,
    free: int,
    config: RoutingConfig,
    fetch_ms: float = 0.0,
) -> Prediction:
    """What the request would cost there. slots, free: for this model.  fetch_ms: until the model has been fetched.

    ::

        wait    = 0 if a slot is free, else (tokens left + tokens queued) / slots / decode rate
        load    = 0 if loaded, else the engine's measured load time, else base + size / reading rate; + fetch
        prefill = prompt tokens / prefill rate, + the way to another node
        ttft    = wait + load + prefill
        work    = load + prefill + (tokens left + own output tokens) / decode rate
    """
    tpot_ms = 1000.0 / (facts.decode_tps or config.decode_tps)
    prefill_ms = 1000.0 * request.prompt_tokens / (facts.prefill_tps or config.prefill_tps)
    if facts.node_id:
        prefill_ms += config.peer_ttft_ms
    least_tokens = facts.in_flight * MIN_LEFT_TOKENS
    left_tokens = facts.outstanding_tokens if facts.outstanding_tokens > least_tokens else least_tokens
    wait_ms = 0.0 if free else (left_tokens + request.queued_tokens) / slots * tpot_ms
    load_ms = 0.0 if model.loaded else fetch_ms + (facts.load_ms or estimated_load_ms(model, config))
    return Prediction(
        wait_ms,
        load_ms,
        wait_ms + load_ms + prefill_ms,
        tpot_ms,
        load_ms + prefill_ms + (left_tokens + request.output_tokens) * tpot_ms,
    )


def estimated_load_ms(model: EngineModel, config: RoutingConfig) -> float:
    """Time to load a model of its size, where the engine never loaded one."""
    size_bytes = model.record.size_bytes if model.record is not None else 0
    return config.load_base_ms + (size_bytes or config.unknown_size_bytes) / config.load_bytes_per_ms


class Sample(Struct, frozen=True, gc=False):
    """What one finished request showed. 0 = not told.

    prompt_tokens: those evaluated, without cached ones, in prompt_ms.  output_tokens: produced in output_ms.
    load_ms: only of a request that had the model loaded.
    """

    prompt_tokens: int = 0
    prompt_ms: float = 0.0
    output_tokens: int = 0
    output_ms: float = 0.0
    load_ms: float = 0.0


class Rates(Struct, frozen=True, gc=False):
    """Exponentially weighted moving averages of an engine; 0 = not yet measured."""

    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    load_ms: float = 0.0


WEIGHT: Final = 0.2
"""Of the newest sample: half of an average's weight lies on the last three."""
MIN_PROMPT_TOKENS: Final = 8
MIN_OUTPUT_TOKENS: Final = 4
MIN_OUTPUT_MS: Final = 5.0
"""Shorter ones measure overhead or a buffer's content, not speed."""


def moved(average: float, value: float) -> float:
    """The average after one more value; the first value is taken whole."""
    return average + WEIGHT * (value - average) if average else value


def learn(rates: Rates, sample: Sample) -> Rates:
    """The rates after one more sample. Parts that say too little leave their rate as it is."""
    prefill_tps, decode_tps, load_ms = rates.prefill_tps, rates.decode_tps, rates.load_ms
    if sample.prompt_tokens >= MIN_PROMPT_TOKENS and sample.prompt_ms > 0:
        prefill_tps = moved(prefill_tps, 1000.0 * sample.prompt_tokens / sample.prompt_ms)
    if sample.output_tokens >= MIN_OUTPUT_TOKENS and sample.output_ms >= MIN_OUTPUT_MS:
        decode_tps = moved(decode_tps, 1000.0 * sample.output_tokens / sample.output_ms)
    if sample.load_ms > 0:
        load_ms = moved(load_ms, sample.load_ms)
    return Rates(prefill_tps, decode_tps, load_ms)
