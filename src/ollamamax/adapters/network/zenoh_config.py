"""A MeshConfig as zenoh's configuration. Everything that zenoh would do beyond what is asked is switched off here."""

import base64
import json
import re
from typing import Any, Final

import zenoh

from ollamamax.core.membership.deltas import MAX_MESSAGE_BYTES
from ollamamax.ports import MeshConfig, MeshRole

SCOUT_ADDRESS: Final = "224.0.0.224:11436"
"""Not zenoh's own group: programs of others that scout there have no business here, nor we there."""
OPEN_LIMIT_MS: Final = 2_000
"""For one address, TLS included."""
_CLIENT_SCOUT_MS: Final = 2_000
_SETTLE_MS: Final = 500
_BUFFER_BYTES: Final = 16 << 10
"""Of several per link. What nodes tell is small; larger messages travel in pieces."""
_SIGNS_PER_LEASE: Final = 2
"""They are what an idle router spends its time on: with 4 it takes twice the CPU."""
_MAX_SESSIONS: Final = 10_000
_MAX_PENDING: Final = 1_000
_ALL_MESSAGES: Final = (
    "put",
    "delete",
    "declare_subscriber",
    "query",
    "reply",
    "declare_queryable",
    "liveliness_token",
    "liveliness_query",
    "declare_liveliness_subscriber",
)


def session_config(config: MeshConfig, *, by_scouting: bool = False) -> zenoh.Config:
    """How to open a session. by_scouting: a client finds its router by multicast rather than by `connect`.

    It holds the private key: never log it.
    """
    return zenoh.Config.from_json5(json.dumps(_tree(config, by_scouting)))


def scout_config() -> zenoh.Config:
    """How to look for nodes on the LAN."""
    return zenoh.Config.from_json5(json.dumps({"scouting": {"multicast": {"address": SCOUT_ADDRESS}}}))


def reason(error: Exception) -> str:
    """Why zenoh refused, for a log: without the parameters of an endpoint (private keys) and places in its source."""
    text = re.split(r"[#{]|\bat /", str(error), maxsplit=1)[0]
    return text.strip()[:200] or "zenoh does not say why"


def _tree(config: MeshConfig, by_scouting: bool) -> dict[str, Any]:
    is_router = config.role is MeshRole.ROUTER
    connect: dict[str, Any] = {
        "endpoints": [] if by_scouting else [f"tls/{_callable(address)}" for address in config.connect],
        "retry": {"period_init_ms": 250, "period_max_ms": 1_000, "period_increase_factor": 2},
    }
    if not is_router:
        connect["timeout_ms"] = 0  # try each address once, so that opening takes a bounded time
    return {
        "mode": "router" if is_router else "client",
        "listen": {"endpoints": [f"tls/{config.listen}"] if is_router else []},
        "connect": connect,
        "scouting": _scouting(is_router and config.multicast, by_scouting),
        "timestamping": {"enabled": False},
        "adminspace": {"enabled": False},
        "transport": _transport(config),
        **_access_control(config),
    }


def _callable(address: str) -> str:
    """zenoh takes what stands before the last colon for the host, and does not know an IPv6 one in brackets."""
    host, _, port = address.rpartition(":")
    return f"{host.strip('[]')}:{port}"


def _scouting(is_found: bool, is_looking: bool) -> dict[str, Any]:
    return {
        # Before a router says anything: what it declares while its links to others come up is lost on them for good.
        "delay": _SETTLE_MS,
        "timeout": _CLIENT_SCOUT_MS,
        "gossip": {"enabled": False},
        "multicast": {
            "enabled": is_found or is_looking,
            "address": SCOUT_ADDRESS,
            "listen": {"router": is_found, "peer": False, "client": False},
            "autoconnect": {"router": [], "peer": [], "client": ["router"]},
        },
    }


def _transport(config: MeshConfig) -> dict[str, Any]:
    certificate, key = _base64(config.keys.certificate), _base64(config.keys.private_key)
    return {
        # On by default; a router that dies would strand the clients of its machine.
        "shared_memory": {"enabled": False},
        "unicast": {
            "open_timeout": OPEN_LIMIT_MS,
            "accept_timeout": OPEN_LIMIT_MS,
            "accept_pending": _MAX_PENDING,
            "max_sessions": _MAX_SESSIONS,
        },
        "link": {
            "protocols": ["tls"],
            "tx": {"lease": config.lease_ms, "keep_alive": _SIGNS_PER_LEASE, "batch_size": _BUFFER_BYTES},
            "rx": {"max_message_size": 2 * MAX_MESSAGE_BYTES, "buffer_size": _BUFFER_BYTES},
            "tls": {
                "enable_mtls": True,
                # Any member will do: the authority is the cluster's alone, and addresses are no names.
                "verify_name_on_connect": False,
                "close_link_on_expiration": True,
                "root_ca_certificate_base64": _base64(config.keys.ca),
                "listen_certificate_base64": certificate,
                "listen_private_key_base64": key,
                "connect_certificate_base64": certificate,
                "connect_private_key_base64": key,
            },
        },
    }


def _access_control(config: MeshConfig) -> dict[str, Any]:
    if not config.denied:
        return {}
    return {
        "access_control": {
            "enabled": True,
            "default_permission": "allow",
            "rules": [
                {
                    "id": "nothing",
                    "permission": "deny",
                    "messages": _ALL_MESSAGES,
                    "flows": ["egress", "ingress"],
                    "key_exprs": ["**"],
                }
            ],
            "subjects": [{"id": "removed", "cert_common_names": sorted(config.denied)}],
            "policies": [{"rules": ["nothing"], "subjects": ["removed"]}],
        }
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
