"""From a model and what is asked of it to how its engine is launched."""

from typing import Final

from msgspec import Struct

from ollamamax.core.residency.fit import context_tokens, memory_need, sizings
from ollamamax.core.types import LaunchSpec, Options, ResolvedModel
from ollamamax.services.runners import LaunchPlan

DEFAULT_CTX_TOKENS: Final = 4096
AUTOMATIC_SLOTS: Final = 4
_DEFAULT_BATCH_TOKENS: Final = 512
_EMBEDDING_BATCH_TOKENS: Final = 2048
_VISION_CTX_TOKENS: Final = 2048
_WITHOUT_SHIFT: Final = frozenset({"deepseek2"})


class AgentConfig(Struct, frozen=True, kw_only=True):
    """How this node's engines are run.

    keep_alive_ms: where no request says one.  max_loaded_models: 0 = three per GPU, or three.  num_parallel: slots of
    a model, 0 = four, two or one, as memory allows.  context_length: where neither model nor request says one, 0 =
    4096; tokens.  load_timeout_ms: 0 = none.  gpu_overhead_bytes: of each GPU, left free.
    """

    keep_alive_ms: int = 300_000
    max_loaded_models: int = 0
    num_parallel: int = 0
    context_length: int = 0
    load_timeout_ms: float = 300_000.0
    kv_cache_type: str = "f16"
    flash_attention: str = "auto"
    gpu_overhead_bytes: int = 0


def runner_key(model: ResolvedModel) -> str:
    """Names with the same weights, adapters and projector share a runner."""
    return "+".join((model.model_digest, *model.adapter_paths, *model.projector_paths))


def launch_plan(model: ResolvedModel, options: Options, shift: bool, config: AgentConfig) -> LaunchPlan:
    """How to launch. options: the model's with the request's upon them.  shift: may the context be shifted."""
    facts = model.facts
    is_embedding = facts.pooling_type is not None
    ctx_tokens = context_tokens(options.num_ctx, config.context_length or DEFAULT_CTX_TOKENS, facts)
    if model.projector_paths:
        ctx_tokens = max(ctx_tokens, _VISION_CTX_TOKENS)
    default_batch = min(_EMBEDDING_BATCH_TOKENS, ctx_tokens) if is_embedding else _DEFAULT_BATCH_TOKENS
    batch_tokens = max(options.num_batch, 1) if options.num_batch is not None else default_batch
    is_gpu_automatic = options.num_gpu is None or options.num_gpu < 0
    spec = LaunchSpec(
        key=runner_key(model),
        name=model.name.short,
        model_path=model.model_path,
        ctx_tokens=ctx_tokens,
        batch_tokens=batch_tokens,
        embedding=is_embedding,
        adapter_paths=model.adapter_paths,
        projector_path=next(iter(model.projector_paths), ""),
        gpu_layers=-1 if is_gpu_automatic else options.num_gpu or 0,
        main_gpu=max(options.main_gpu or 0, 0),
        threads=max(options.num_thread or 0, 0),
        use_mmap=options.use_mmap is not False,
        kv_cache_type=config.kv_cache_type,
        flash_attention=config.flash_attention,
        context_shift=shift and not is_embedding and facts.architecture not in _WITHOUT_SHIFT,
    )

    def need_bytes(parallel: int) -> int:
        # What the manifest lists beside the weights: adapters, projectors, and a few kilobytes of text.
        beside_bytes = max(model.size_bytes - facts.file_bytes, 0)
        return memory_need(
            facts, ctx_tokens, parallel, batch_tokens, spec.kv_cache_type, spec.flash_attention, beside_bytes
        ).total_bytes

    asked = {"ctx_tokens": options.num_ctx is not None, "batch_tokens": options.num_batch is not None}
    asked["gpu_layers"] = not is_gpu_automatic
    automatic = frozenset(name for name, is_asked in asked.items() if not is_asked)
    return LaunchPlan(spec, sizings(1 if is_embedding else config.num_parallel, need_bytes), automatic)
