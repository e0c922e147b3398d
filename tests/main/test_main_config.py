"""Which knob changes what in the small configs of the parts, and that it changes nothing else there."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from ollamamax.main import config
from ollamamax.ports import NodeKeys
from ollamamax.settings import Settings, load

PORT = 7000

# knob -> (what somebody writes, what that changes)
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "listen.host": ("0.0.0.0", {"api.loopback": False}),
    "listen.origins": ("https://a.example", {"api.origins": ("https://a.example",)}),
    "listen.max_body_bytes": ("2048", {"api.max_body_bytes": 2048}),
    "listen.body_timeout_s": ("1.5", {"api.body_timeout_ms": 1_500}),
    "peer.host": ("::1", {"membership.listen": f"[::1]:{PORT}"}),
    "peer.seeds": ("box", {"membership.seeds": ("box:11435",)}),
    "peer.multicast": ("false", {"membership.multicast": False}),
    "peer.lease_s": ("1.5", {"membership.lease_ms": 1_500}),
    "engine.keep_alive": ("90s", {"agent.keep_alive_ms": 90_000}),
    "engine.max_loaded_models": ("7", {"agent.max_loaded_models": 7}),
    "engine.num_parallel": ("7", {"agent.num_parallel": 7}),
    "engine.context_length": ("7", {"agent.context_length": 7}),
    "engine.load_timeout_s": ("7", {"agent.load_timeout_ms": 7_000, "dispatch.load_timeout_ms": 7_000}),
    "engine.kv_cache_type": ("q8_0", {"agent.kv_cache_type": "q8_0"}),
    "engine.flash_attention": ("off", {"agent.flash_attention": "off"}),
    "engine.gpu_overhead_bytes": ("7", {"agent.gpu_overhead_bytes": 7}),
    "routing.poll_s": ("7", {"fleet.poll_ms": 7_000}),
    "routing.first_token_timeout_s": ("7", {"dispatch.first_token_timeout_ms": 7_000}),
    "routing.stall_timeout_s": ("7", {"dispatch.stall_timeout_ms": 7_000, "api.stall_timeout_ms": 7_000}),
    "routing.retry_ratio": ("0.7", {"retry.ratio": 0.7}),
    "routing.retry_min_per_window": ("7", {"retry.min_per_window": 7}),
    "routing.breaker_failures": ("7", {"fleet.breaker.failures": 7}),
    "routing.breaker_open_s": ("7", {"fleet.breaker.open_ms": 7_000}),
}


def no_keys() -> NodeKeys:
    raise AssertionError("nobody is met here")


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from leaves(f"{name}.{field}", getattr(value, field))
    else:
        yield name, value


def configs(settings: Settings) -> dict[str, Any]:
    """Every field of every config."""
    makers: dict[str, Callable[[Settings], Any]] = {
        "agent": config.agent_config,
        "api": config.api_config,
        "dispatch": config.dispatch_config,
        "fleet": config.fleet_config,
        "membership": lambda settings: config.membership_config(settings, no_keys, PORT),
        "retry": config.retry_config,
    }
    return {key: value for name, make in makers.items() for key, value in leaves(name, make(settings))}


@pytest.mark.parametrize("key", CHANGES)
def test_a_knob_changes_what_it_should_and_nothing_else(key: str) -> None:
    text, changes = CHANGES[key]
    before = configs(load({}, {"HOME": "/x"}).settings)
    after = configs(load({key: text}, {"HOME": "/x"}).settings)
    assert {name: value for name, value in after.items() if value != before[name]} == changes


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("fd00::1", "http://[fd00::1]:1"),
        ("box", "http://box:1"),
    ],
)
def test_where_clients_of_this_machine_find_it(host: str, url: str) -> None:
    assert config.base_url(host, 1) == url
