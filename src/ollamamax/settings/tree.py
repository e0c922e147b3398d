"""The tree. Each knob says what it means, in which unit, its default and why. Nothing here reads anything."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from ollamamax.settings.knobs import (
    Amount,
    CacheType,
    ContextLength,
    Count,
    Host,
    KeepAlive,
    Knob,
    Origins,
    Section,
    Url,
    as_text,
    knob,
)
from ollamamax.settings.peer import Peer
from ollamamax.settings.state import State
from ollamamax.settings.values import DEFAULT_HOST, DEFAULT_PORT, is_loopback, seconds_or_duration_ms


class Listen(Section):
    """Where clients connect, and how much they may send."""

    host: Host = knob(
        DEFAULT_HOST,
        "Address or name that the public listener binds to; 0.0.0.0 is every IPv4 interface.",
        why="There is no authentication, so only this machine can reach it until someone decides otherwise.",
        ollama="OLLAMA_HOST",
        flag="--host",
    )
    port: Count = knob(
        DEFAULT_PORT,
        "TCP port of the public listener; 0 picks a free one.",
        why="Ollama's port, so that clients find it without being told.",
        ollama="OLLAMA_HOST",
        flag="--port",
        ge=0,
        le=65535,
    )
    origins: Origins = knob(
        (),
        "Origins that browsers may call from, beside this machine's and desktop apps'; one * each; comma-separated.",
        why="A web page of somebody else must not use the models unnoticed.",
        applies="live",
        ollama="OLLAMA_ORIGINS",
        flag="--origins",
    )
    insecure_public: bool = knob(
        False,
        "Let the public listener use an address that other machines can reach; else the start is refused.",
        why="Whoever reaches it can run and delete models and manage the cluster, so somebody has to have decided it.",
        flag="--insecure-public",
    )
    max_body_bytes: Count = knob(
        64 << 20,
        "Largest request body, blobs excepted; beyond it the answer is 413.",
        unit="bytes",
        why="Room for a few base64 images, and a bound on the memory that one client can take.",
        applies="live",
        ge=1024,
    )
    body_timeout_s: Amount = knob(
        30.0,
        "Longest time for a JSON body to arrive whole, and between two pieces of a blob; beyond it: 408.",
        unit="seconds",
        why="A half-sent body must not hold a connection for ever; slow links still get through.",
        applies="live",
        gt=0,
    )
    shutdown_grace_s: Amount = knob(
        10.0,
        "How long answers in progress may go on after SIGTERM or SIGINT; a second signal ends them at once.",
        unit="seconds",
        why="Service managers usually kill after 30 s or less, and unloading needs some of it.",
        applies="restart",
        ge=0,
    )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


class Engine(Section):
    """The engines of this node: one child process per loaded model."""

    keep_alive: KeepAlive = knob(
        "5m",
        "How long a model stays loaded after its last request, unless that says otherwise; negative: for ever.",
        unit="Go duration, or seconds",
        why="Ollama's default.",
        applies="live",
        ollama="OLLAMA_KEEP_ALIVE",
        flag="--keep-alive",
    )
    max_loaded_models: Count = knob(
        0,
        "Models in memory at once; 0 is three per GPU, or three on a CPU.",
        unit="models",
        why="Ollama's default; memory usually limits first.",
        applies="live",
        ollama="OLLAMA_MAX_LOADED_MODELS",
        flag="--max-loaded-models",
        ge=0,
    )
    num_parallel: Count = knob(
        0,
        "Requests that one loaded model answers at once; 0 is automatic: four, or two or one where memory is short.",
        unit="slots",
        why="The engine batches streams at little extra cost, but each slot takes its own context's memory.",
        applies="live",
        ollama="OLLAMA_NUM_PARALLEL",
        flag="--num-parallel",
        ge=0,
        le=256,
    )
    context_length: ContextLength = knob(
        0,
        "Context of a model where neither it nor the request says one (`num_ctx`); 0 is 4096, or the model's if less.",
        unit="tokens",
        why="A long context costs memory that most chats never use.",
        applies="live",
        ollama="OLLAMA_CONTEXT_LENGTH",
        flag="--context-length",
        ge=0,
    )
    load_timeout_s: Amount = knob(
        300.0,
        "Longest time to load a model; 0 is no limit.",
        unit="seconds",
        why="Ollama's default: tens of gigabytes from a slow disk take minutes.",
        applies="live",
        ollama="OLLAMA_LOAD_TIMEOUT",
        ge=0,
    )
    kv_cache_type: CacheType = knob(
        "f16",
        "Number format of the context cache (keys and values).",
        why="Exact; q8_0 halves the memory at a small loss.",
        applies="live",
        ollama="OLLAMA_KV_CACHE_TYPE",
    )
    flash_attention: Literal["auto", "on", "off"] = knob(
        "auto",
        "Flash attention in the engine; quantised cache formats need it.",
        why="The engine knows where the hardware gains by it.",
        applies="live",
        ollama="OLLAMA_FLASH_ATTENTION",
    )
    gpu_overhead_bytes: Count = knob(
        0,
        "Memory per GPU that models leave free.",
        unit="bytes",
        why="The memory estimate has its own margin; this is for other programs on the same GPU.",
        applies="live",
        ollama="OLLAMA_GPU_OVERHEAD",
        ge=0,
    )
    noprune: bool = knob(
        False,
        "Keep blobs that no model uses, instead of removing them at start and after changes.",
        why="Unused weights fill disks.",
        applies="live",
        ollama="OLLAMA_NOPRUNE",
    )

    @property
    def keep_alive_ms(self) -> int:
        """Milliseconds; FOREVER_MS for a negative duration."""
        return seconds_or_duration_ms(self.keep_alive)


class Queue(Section):
    """Requests that wait."""

    max_queue: Count = knob(
        512,
        "Requests that may wait for an engine; the next one is answered 503.",
        unit="requests",
        why="Ollama's default. Unbounded waiting turns overload into answers that nobody waits for.",
        applies="live",
        ollama="OLLAMA_MAX_QUEUE",
        flag="--max-queue",
        ge=1,
    )


class Routing(Section):
    """How requests find an engine, and what happens when one fails."""

    poll_s: Amount = knob(
        5.0,
        "How often an attached engine is asked what it offers.",
        unit="seconds",
        why="A lost engine is noticed soon, at the price of one small request.",
        applies="live",
        gt=0,
    )
    first_token_timeout_s: Amount = knob(
        60.0,
        "Longest wait for an engine's first token, loading aside, unless its prompt is predicted to take longer.",
        unit="seconds",
        why="Long prompts take tens of seconds on a CPU; dead engines must not take longer.",
        applies="live",
        gt=0,
    )
    stall_timeout_s: Amount = knob(
        120.0,
        "Longest silence between two tokens; then the engine counts as failed.",
        unit="seconds",
        why="Far above the slowest real token, so that only dead engines meet it.",
        applies="live",
        gt=0,
    )
    retry_ratio: Amount = knob(
        0.2,
        "Attempts on another engine, as a share of the requests of the last 10 s.",
        unit="retries per request",
        why="When everything fails, retries must not multiply the load.",
        applies="live",
        ge=0,
        le=1,
    )
    retry_min_per_window: Count = knob(
        10,
        "Retries that are always allowed in that window, whatever the share.",
        unit="retries",
        why="A share of little traffic would be none at all.",
        applies="live",
        ge=0,
    )
    breaker_failures: Count = knob(
        3,
        "Failures in a row after which an engine gets no requests for a while.",
        unit="failures",
        why="One failure is chance, three are a pattern.",
        applies="live",
        ge=1,
    )
    breaker_open_s: Amount = knob(
        10.0,
        "How long such an engine is left out before one request tries it again.",
        unit="seconds",
        why="About what a process needs to be restarted.",
        applies="live",
        gt=0,
    )


class Log(Section):
    """What the node says on standard error."""

    level: Literal["debug", "info", "warning", "error"] = knob(
        "info",
        "Least severe lines that are written.",
        why="Starts, stops and failures, but nothing per token.",
        applies="live",
        ollama="OLLAMA_DEBUG",
        flag="--log-level",
    )
    format: Literal["console", "json"] = knob(
        ...,
        "Lines for people or for machines.",
        why="People look at terminals, machines at everything else.",
        applies="restart",
        flag="--log-format",
        default_text="console on a terminal, else json",
    )


class Telemetry(Section):
    """What the node tells others of itself."""

    otlp_endpoint: Url = knob(
        "",
        "Base URL of an OTLP/HTTP collector that traces are sent to; empty: none.",
        why="Nothing leaves the machine unasked.",
        applies="restart",
    )


class Settings(Section):
    """The whole tree, as `load` makes it."""

    home: Path = knob(
        ...,
        "Directory of this node's own data: attached engines, history, and config.toml.",
        why="One place to back up or delete.",
        flag="--home",
        default_text="~/.ollamamax",
    )
    models: Path = knob(
        ...,
        "The model store, in Ollama's layout.",
        why="Models that Ollama has fetched are usable at once.",
        ollama="OLLAMA_MODELS",
        flag="--models",
        default_text="~/.ollama/models where that exists, else models in the home",
    )
    listen: Listen = Listen()
    peer: Peer = Peer()
    state: State = State()
    engine: Engine = Engine()
    queue: Queue = Queue()
    routing: Routing = Routing()
    log: Log
    telemetry: Telemetry = Telemetry()

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The tree of values by dotted key; keys that are left out take their default."""
        tree: dict[str, Any] = {}
        for key, value in values.items():
            *branch, leaf = key.split(".")
            node = tree
            for part in branch:
                node = node.setdefault(part, {})
            node[leaf] = value
        return cls.model_validate(tree)


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf: (dotted key, field), in the order of the tree."""
    for name, field in Settings.model_fields.items():
        branch = field.annotation
        if isinstance(branch, type) and issubclass(branch, Section):
            yield from ((f"{name}.{leaf}", inner) for leaf, inner in branch.model_fields.items())
        else:
            yield name, field


def knobs() -> dict[str, Knob]:
    """Every leaf's description, by dotted key, in the order of the tree."""
    found = {}
    for key, field in fields():
        extra = field.json_schema_extra
        assert isinstance(extra, dict), f"{key} is not described"
        said = {name: str(text) for name, text in extra.items()}
        said["default"] = said["default"] or as_text(field.default)
        is_secret = field.annotation is SecretStr
        found[key] = Knob(key=key, meaning=field.description or "", is_secret=is_secret, **said)
    return found
