"""Model names."""

from typing import Final

from msgspec import Struct

DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"


class ModelName(Struct, frozen=True, order=True):
    """A parsed model name, `host/namespace/model:tag`; casing as written. Grammar: core/modelspec/names.py."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def full(self) -> str:
        """All four parts: `registry.ollama.ai/library/tiny:latest`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """Default host and namespace dropped, the tag always kept: `tiny:latest`."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """What routing compares: the short name in lower case (names match without regard to case)."""
        return self.short.lower()
