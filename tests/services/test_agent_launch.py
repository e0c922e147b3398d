"""Options to launches."""

from typing import Any

import pytest
from agent_world import MIB, model

from ollamamax.core.types import LaunchSpec, Options, ResolvedModel
from ollamamax.services.agent_launch import AgentConfig, launch_plan, runner_key


def spec(
    of: ResolvedModel | None = None, shift: bool = True, config: AgentConfig | None = None, **options: Any
) -> LaunchSpec:
    return launch_plan(of or model(), Options(**options), shift, config or AgentConfig()).spec


@pytest.mark.parametrize(
    ("asked", "configured", "expected"),
    [(None, 0, 4096), (None, 1000, 1000), (100, 1000, 100), (99_999, 0, 8192), (None, 99_999, 8192), (1, 0, 4)],
)
def test_context(asked: int | None, configured: int, expected: int) -> None:
    assert spec(config=AgentConfig(context_length=configured), num_ctx=asked).ctx_tokens == expected


def test_what_is_configured_reaches_the_engine() -> None:
    made = spec(config=AgentConfig(flash_attention="off", kv_cache_type="q8_0"))
    assert (made.flash_attention, made.kv_cache_type) == ("off", "q8_0")


def test_what_nobody_asked_for_is_automatic() -> None:
    def automatic(**options: Any) -> set[str]:
        return set(launch_plan(model(), Options(**options), True, AgentConfig()).automatic)

    assert automatic() == {"ctx_tokens", "batch_tokens", "gpu_layers"}
    assert automatic(num_ctx=512, num_gpu=-1) == {"batch_tokens", "gpu_layers"}
    assert automatic(num_ctx=512, num_batch=4, num_gpu=0) == set()


def test_odd_values_become_usable_ones() -> None:
    made = spec(num_batch=-3, num_gpu=-7, main_gpu=-1, num_thread=-2)
    assert (made.batch_tokens, made.gpu_layers, made.main_gpu, made.threads) == (1, -1, 0, 0)
    assert spec(num_gpu=0).gpu_layers == 0
    assert (spec().use_mmap, spec(use_mmap=False).use_mmap) == (True, False)


def test_shifting() -> None:
    assert spec().context_shift
    assert not spec(shift=False).context_shift
    assert not spec(model(pooling_type=1)).context_shift
    assert not spec(model(architecture="deepseek2")).context_shift


def test_slots() -> None:
    def counts(of: ResolvedModel, **config: Any) -> list[int]:
        return [sizing.parallel for sizing in launch_plan(of, Options(), True, AgentConfig(**config)).sizings]

    assert counts(model()) == [4, 2, 1]
    assert counts(model(), num_parallel=3) == [3]
    assert counts(model("e", pooling_type=1), num_parallel=3) == [1]


def test_need_counts_weights_caches_and_the_files_beside() -> None:
    def need(of: ResolvedModel, **config: Any) -> int:
        return launch_plan(of, Options(), True, AgentConfig(num_parallel=1, **config)).sizings[0].need_bytes

    alone = need(model())
    assert need(model(tensor_bytes=3 * MIB)) == alone + 2 * MIB
    assert need(model(size_bytes=5 * MIB)) == alone + 5 * MIB
    assert need(model(), kv_cache_type="q8_0") < alone
    assert need(model(), flash_attention="off") > alone


def test_who_shares_a_runner() -> None:
    plain, tuned = model(), model(adapter_paths=("/a",))
    assert runner_key(plain) == runner_key(model("other", model_digest="sha256:tiny"))
    assert runner_key(plain) != runner_key(tuned)
    assert runner_key(tuned) != runner_key(model(projector_paths=("/p",)))
    assert spec(tuned).adapter_paths == ("/a",)


def test_models_that_see() -> None:
    made = spec(model(projector_paths=("/p",)), num_ctx=100)
    assert (made.projector_path, made.ctx_tokens) == ("/p", 2048)
