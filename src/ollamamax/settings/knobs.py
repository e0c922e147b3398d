"""What a knob of the settings tree is made of: its type, its limits, and the words that explain it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from ollamamax.settings.values import (
    check_address,
    check_cluster_name,
    check_host,
    check_node_name,
    check_origin,
    check_peer_host,
    seconds_or_duration_ms,
)

HIDDEN = "***"
"""What is shown of a secret."""


def _no_bool(value: Any) -> Any:
    """Keep `true` from passing as 1."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _keep_alive(value: Any) -> str:
    """A duration as text; numbers are seconds."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError('should be a duration such as "5m", or seconds')
    text = value.strip() if isinstance(value, str) else f"{value}s"
    seconds_or_duration_ms(text)
    return text


def _commas(value: Any) -> Any:
    """A comma list, where it comes as one text."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _endpoint(value: str) -> str:
    """An http(s) URL, or nothing."""
    if value and not value.startswith(("http://", "https://")):
        raise ValueError("should be an http:// or https:// URL, or empty")
    return value


def _context_length(value: int) -> int:
    """Nought, or what a context needs at least."""
    if 0 < value < 4:
        raise ValueError("should be 0 (automatic) or at least 4")
    return value


Count = Annotated[int, BeforeValidator(_no_bool)]
Amount = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Host = Annotated[str, AfterValidator(check_host)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(check_origin)], ...], BeforeValidator(_commas)]
Addresses = Annotated[tuple[Annotated[str, AfterValidator(check_address)], ...], BeforeValidator(_commas)]
PeerHost = Annotated[str, AfterValidator(check_peer_host)]
NodeName = Annotated[str, AfterValidator(check_node_name)]
ClusterName = Annotated[str, AfterValidator(check_cluster_name)]
KeepAlive = Annotated[str, BeforeValidator(_keep_alive)]
ContextLength = Annotated[Count, AfterValidator(_context_length)]
Url = Annotated[str, AfterValidator(_endpoint)]
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


@dataclass(frozen=True)
class Knob:
    """What documentation and error messages need to know of a setting, beside its type.

    key: dotted path.  ollama: Ollama's variable for it.  flag: of `ollamamax serve`.  default: as text.
    applies: "live" = the cluster may set it, and nodes take it over while they run; "restart" = the cluster may set it,
    and nodes take it over when they start; "local" = each node's own.  is_secret: its value is never shown.
    """

    key: str
    meaning: str
    unit: str
    why: str
    ollama: str
    flag: str
    default: str
    applies: str
    is_secret: bool = False

    @property
    def variable(self) -> str:
        """The environment variable, e.g. OLLAMAMAX_LISTEN__PORT."""
        return "OLLAMAMAX_" + self.key.upper().replace(".", "__")


def knob(
    default: Any,
    meaning: str,
    *,
    why: str,
    unit: str = "",
    ollama: str = "",
    flag: str = "",
    default_text: str = "",
    applies: Literal["live", "restart", "local"] = "local",
    **limits: Any,
) -> Any:
    """A pydantic field. default: `...` where it depends on the machine; default_text says how.  limits: ge, gt, le.

    applies: as Knob.applies.
    """
    extra: Any = {
        "unit": unit,
        "why": why,
        "ollama": ollama,
        "flag": flag,
        "default": default_text,
        "applies": applies,
    }
    return Field(default, description=meaning, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """A frozen branch of the tree that knows no other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def as_text(value: Any) -> str:
    """A value as people write it; of a secret only that there is one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, SecretStr):
        return HIDDEN if value else ""
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
