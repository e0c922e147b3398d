"""A meter and an audit sink that remember."""

from collections.abc import Mapping

from ollamamax.core.types import ClusterStatus, Outcome, Principal


class MemoryMeter:
    """Keeps all that it was told, in order."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.failed_attempts: list[tuple[str, str]] = []
        self.loads: list[tuple[str, float, str]] = []
        self.exits: list[str] = []
        self.unloads: list[tuple[str, str]] = []
        self.queues: list[tuple[int, int]] = []
        self.loaded_bytes: dict[str, int] = {}
        self.clusters: list[ClusterStatus] = []

    def outcome(self, outcome: Outcome) -> None:
        """One finished request."""
        self.outcomes.append(outcome)

    def attempt_failed(self, engine_id: str, error_code: str) -> None:
        """One attempt that did not become the answer."""
        self.failed_attempts.append((engine_id, error_code))

    def load(self, model: str, duration_ms: float, error_code: str) -> None:
        """One model load."""
        self.loads.append((model, duration_ms, error_code))

    def engine_exit(self, model: str) -> None:
        """An engine process ended without being asked."""
        self.exits.append(model)

    def unload(self, model: str, reason: str) -> None:
        """A model left memory."""
        self.unloads.append((model, reason))

    def queue(self, waiting: int, running: int) -> None:
        """Requests waiting, and admitted."""
        self.queues.append((waiting, running))

    def loaded(self, models: Mapping[str, int]) -> None:
        """Bytes of memory by loaded model."""
        self.loaded_bytes = dict(models)

    def cluster(self, status: ClusterStatus) -> None:
        """What the node sees of its cluster."""
        self.clusters.append(status)

    def render(self) -> tuple[bytes, str]:
        """Nothing to expose."""
        return b"", "text/plain"


class MemoryAudit:
    """Keeps each decision."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, str, bool, str]] = []

    def record(self, principal: Principal, action: str, subject: str, allowed: bool, rule: str) -> None:
        """Remember it."""
        self.records.append((principal.name, action, subject, allowed, rule))
