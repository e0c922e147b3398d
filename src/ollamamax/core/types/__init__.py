"""The words that all packages share: names, requests, chunks, facts, outcomes. Frozen data and views of it.

Units stand last in each name: `_ms` milliseconds, `_bytes`, `_tokens`, `_tps` tokens per second.
"""

from ollamamax.core.types.answers import (
    Chunk,
    EmbedResult,
    GenerationStats,
    Outcome,
    OutcomeKind,
    Progress,
    TokenLogprob,
)
from ollamamax.core.types.fleet import AttachedEngine, EngineFacts, EngineKind, EngineModel, FleetSnapshot
from ollamamax.core.types.models import GgufFacts, LaunchSpec, LoadedModel, ModelDetails, ModelRecord, ResolvedModel
from ollamamax.core.types.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName
from ollamamax.core.types.requests import (
    FOREVER_MS,
    ChatRequest,
    CreateRequest,
    EmbedRequest,
    Message,
    Options,
    Principal,
    RequestContext,
    ToolCall,
)

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_NAMESPACE",
    "DEFAULT_TAG",
    "FOREVER_MS",
    "AttachedEngine",
    "ChatRequest",
    "Chunk",
    "CreateRequest",
    "EmbedRequest",
    "EmbedResult",
    "EngineFacts",
    "EngineKind",
    "EngineModel",
    "FleetSnapshot",
    "GenerationStats",
    "GgufFacts",
    "LaunchSpec",
    "LoadedModel",
    "Message",
    "ModelDetails",
    "ModelName",
    "ModelRecord",
    "Options",
    "Outcome",
    "OutcomeKind",
    "Principal",
    "Progress",
    "RequestContext",
    "ResolvedModel",
    "TokenLogprob",
    "ToolCall",
]
