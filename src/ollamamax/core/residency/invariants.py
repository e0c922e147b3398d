"""What always holds of the residency machine between two steps. The numbers are those of docs/invariants.md."""

from collections.abc import Mapping, Set

from ollamamax.core.residency.events import Acquire
from ollamamax.core.residency.runner import Phase, Runner


def check(
    runners: Mapping[str, Runner],
    pending: Mapping[int, Acquire],
    runner_of: Mapping[int, Runner],
    keeping: Set[int],
    is_measuring: bool,
    is_shutting_down: bool,
) -> None:
    """Raises AssertionError that starts with the number."""
    for key, runner in runners.items():
        _check_runner(key, runner)
    placed = [request for runner in runners.values() for request in (*runner.serving, *runner.waiting)]
    everywhere = [*pending, *placed]
    assert len(everywhere) == len(set(everywhere)), "R2: a request is in one place"
    assert set(placed) == set(runner_of), "R2: a request's runner is known while it has one"
    for runner in runners.values():
        free = any(other.has_free_slot and not other.condemned and other.is_like(runner) for other in runners.values())
        assert not free or not (runner.waiting.keys() - keeping), "R6: nobody waits beside a free slot of a replica"
    loading = [runner for runner in runners.values() if runner.phase is Phase.LOADING]
    assert len(loading) <= 1, "R5: one load at a time"
    if pending:
        assert not is_shutting_down, "R8: nobody waits for a node that stops"
        assert is_measuring or any(
            runner.condemned or runner.phase in (Phase.LOADING, Phase.STOPPING) for runner in runners.values()
        ), "R7: the line waits for something that will end"


def _check_runner(key: str, runner: Runner) -> None:
    assert key == runner.key, "R1: a replica has one runner at most"
    weights, _, number = key.rpartition("#")
    assert key == runner.model_key or (weights == runner.model_key and number.isdecimal()), "R1: of the same weights"
    assert len(runner.serving) <= runner.spec.parallel, "R3: no more requests than slots"
    assert not runner.serving or runner.phase is Phase.READY, "R4: only a ready runner serves"
    assert not runner.waiting or runner.phase is not Phase.STOPPING, "R4: nobody waits for a runner that stops"
    if runner.phase is Phase.READY:
        is_full = len(runner.serving) == runner.spec.parallel
        assert is_full or not runner.waiting, "R6: nobody waits beside a free slot"
        assert runner.is_idle == (runner.idle_since_ms is not None), "R9: the keep-alive runs while nobody needs it"
    if runner.condemned and runner.phase in (Phase.READY, Phase.BACKOFF):
        assert not runner.is_idle, "R10: what is to go and not needed is gone"
