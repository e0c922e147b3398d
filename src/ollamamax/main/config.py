"""From the tree of settings to the small configs that each part has of its own."""

import socket
from collections.abc import Callable

import psutil

from ollamamax.api.ports import ApiConfig
from ollamamax.core.resilience.breaker import BreakerConfig
from ollamamax.core.resilience.retry_budget import RetryConfig
from ollamamax.main.papers import bracketed
from ollamamax.ports import NodeKeys
from ollamamax.services.agent import AgentConfig
from ollamamax.services.dispatch import DispatchConfig
from ollamamax.services.fleet import FleetConfig
from ollamamax.services.membership_config import MembershipConfig
from ollamamax.settings import Settings


def agent_config(settings: Settings) -> AgentConfig:
    """Of the service that owns this node's engines."""
    engine = settings.engine
    return AgentConfig(
        keep_alive_ms=engine.keep_alive_ms,
        max_loaded_models=engine.max_loaded_models,
        num_parallel=engine.num_parallel,
        context_length=engine.context_length,
        load_timeout_ms=engine.load_timeout_s * 1000,
        kv_cache_type=engine.kv_cache_type,
        flash_attention=engine.flash_attention,
        gpu_overhead_bytes=engine.gpu_overhead_bytes,
    )


def fleet_config(settings: Settings) -> FleetConfig:
    """How engines are watched."""
    routing = settings.routing
    breaker = BreakerConfig(failures=routing.breaker_failures, open_ms=routing.breaker_open_s * 1000)
    return FleetConfig(poll_ms=routing.poll_s * 1000, breaker=breaker)


def api_config(settings: Settings) -> ApiConfig:
    """Of the public listener."""
    listen = settings.listen
    interfaces = psutil.net_if_addrs().values()
    addresses = {address.address.split("%")[0] for group in interfaces for address in group}
    return ApiConfig(
        max_body_bytes=listen.max_body_bytes,
        body_timeout_ms=int(listen.body_timeout_s * 1000),
        stall_timeout_ms=int(settings.routing.stall_timeout_s * 1000),
        origins=tuple(listen.origins),
        loopback=listen.is_loopback,
        local_hosts=frozenset({socket.gethostname(), *addresses}),
    )


def retry_config(settings: Settings) -> RetryConfig:
    """How many attempts may be repeats."""
    routing = settings.routing
    return RetryConfig(ratio=routing.retry_ratio, min_per_window=routing.retry_min_per_window)


def dispatch_config(settings: Settings) -> DispatchConfig:
    """The deadlines of attempts."""
    return DispatchConfig(
        first_token_timeout_ms=settings.routing.first_token_timeout_s * 1000,
        load_timeout_ms=settings.engine.load_timeout_s * 1000,
        stall_timeout_ms=settings.routing.stall_timeout_s * 1000,
    )


def membership_config(settings: Settings, keys: Callable[[], NodeKeys], port: int) -> MembershipConfig:
    """How nodes find each other. keys: this node's, which are renewed now and then.  port: of its peer listener."""
    peer = settings.peer
    return MembershipConfig(
        keys=keys,
        listen=f"{bracketed(peer.host)}:{port}",
        seeds=peer.seeds,
        multicast=peer.multicast,
        lease_ms=int(peer.lease_s * 1000),
    )


def base_url(host: str, port: int) -> str:
    """What clients on this machine can use; a listener on every interface is reached by loopback."""
    shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, bracketed(host))
    return f"http://{shown}:{port}"
