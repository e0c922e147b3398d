"""What goes wrong with registries of models."""

from ollamamax.core.errors.node import OllamaMaxError, Retry


class RegistryError(OllamaMaxError):
    """A registry failed a pull or a push."""

    code = "registry"
    deterministic = True


class RegistryNotFound(RegistryError):
    """It has no such model, blob or upload."""

    code = "registry_not_found"


class RegistryDenied(RegistryError):
    """It asks for credentials that this node does not have."""

    code = "registry_denied"


class RegistryUnavailable(RegistryError):
    """It can't be reached, broke off, or said nothing for too long.

    wait_s: how long it asks us to leave it alone, 0 if it does not say.
    """

    code = "registry_unavailable"
    retry = Retry.LATER
    deterministic = False
    wait_s: float = 0.0

    def __init__(self, text: str, wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class RegistryProtocol(RegistryError):
    """Its answer can't be understood."""

    code = "registry_protocol"


class RangeIgnored(RegistryProtocol):
    """It sends blobs whole or not at all."""

    code = "registry_range_ignored"
