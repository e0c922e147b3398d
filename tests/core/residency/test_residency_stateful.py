"""Random runs of the machine against a simple model of the world: R1 to R15."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ollamamax.core.errors import LoadFailed as LoadFailedError
from ollamamax.core.errors import NoMemory, ShuttingDown
from ollamamax.core.residency.events import (
    Acquire,
    Effect,
    Event,
    Exited,
    Fail,
    Failure,
    Grant,
    Loaded,
    LoadFailed,
    MeasureMemory,
    MemoryMeasured,
    Release,
    Shutdown,
    StartLoad,
    Stopped,
    StopRunner,
    Tick,
    UnloadAsked,
)
from ollamamax.core.residency.fit import Sizing
from ollamamax.core.residency.machine import Residency, ResidencyConfig
from ollamamax.core.types import FOREVER_MS, LaunchSpec

KEYS = ["a", "b", "c", "d"]
TOTAL_BYTES = 1000
NEEDS = {"a": 100, "b": 400, "c": 700, "d": 1100}  # d never fits


class World(RuleBasedStateMachine):
    """What processes there are, who was promised what. Its checks see events and effects only."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0.0
        self.next_id = 0
        self.key_of: dict[int, str] = {}
        self.unanswered: set[int] = set()
        self.served: dict[int, str] = {}
        self.last_granted: dict[str, int] = {}
        self.loading: set[str] = set()
        self.up: dict[str, int] = {}  # key -> slots
        self.slots: dict[str, int] = {}
        self.needs: dict[str, int] = {}  # of all that is loaded or will be restarted
        self.stopping: set[str] = set()
        self.was_up: set[str] = set()
        self.measuring = False
        self.is_forced = False
        self.is_shut = False
        self.reported_free = 0

    @initialize(limit=st.sampled_from([1, 2, 3]), keep_alive_ms=st.sampled_from([0, 5_000, 300_000]))
    def start(self, limit: int, keep_alive_ms: int) -> None:
        self.limit = limit
        self.machine = Residency(ResidencyConfig(keep_alive_ms=keep_alive_ms, max_loaded=limit, load_timeout_ms=60_000))

    def send(self, event: Event) -> None:
        for effect in self.machine.step(event, self.now_ms):
            self.check(effect)

    def check(self, effect: Effect) -> None:
        match effect:
            case Grant(request_id, key):
                assert request_id in self.unanswered, "R11"
                assert self.key_of[request_id] == key
                assert key in self.up
                assert key not in self.stopping
                self.unanswered.remove(request_id)
                self.served[request_id] = key
                assert list(self.served.values()).count(key) <= self.up[key], "R3"
                assert self.last_granted.get(key, -1) < request_id, "R13"
                self.last_granted[key] = request_id
            case Fail(request_id, failure):
                assert request_id in self.unanswered, "R11"
                self.unanswered.remove(request_id)
                if failure.kind is NoMemory:
                    assert NEEDS[self.key_of[request_id]] > TOTAL_BYTES
                assert (failure.kind is ShuttingDown) <= self.is_shut
            case StartLoad(spec, need_bytes):
                self.check_start(spec, need_bytes)
            case StopRunner(key, _):
                assert key in self.loading or key in self.up
                assert key not in self.stopping
                if not self.is_forced:
                    assert key not in self.served.values(), "R12"
                self.stopping.add(key)
            case MeasureMemory():
                assert not self.measuring
                self.measuring = True

    def check_start(self, spec: LaunchSpec, need_bytes: int) -> None:
        key = spec.key
        assert self.loading <= self.stopping, "R5"
        assert not self.is_shut
        assert key not in self.up
        assert need_bytes <= TOTAL_BYTES, "R14"
        if key not in self.needs:
            # A runner dropped while it waited for its restart leaves no trace out here; ask the machine who lives.
            alive = {runner.key for runner in self.machine.runners}
            self.needs = {name: need for name, need in self.needs.items() if name in alive}
            assert len(self.needs) < self.limit, "R14"
            if self.needs:
                asleep = sum(need for name, need in self.needs.items() if name not in self.up)
                unclaimed = TOTAL_BYTES - sum(self.needs.values())
                assert need_bytes <= 0.8 * min(self.reported_free - asleep, unclaimed), "R14"
        self.loading.add(key)
        self.needs[key] = need_bytes
        self.slots[key] = spec.parallel

    @rule(
        key=st.sampled_from(KEYS),
        ctx_tokens=st.sampled_from([100, 200]),
        is_automatic=st.booleans(),
        keep_alive_ms=st.sampled_from([None, 0, 1_000, FOREVER_MS]),
    )
    def acquire(self, key: str, ctx_tokens: int, is_automatic: bool, keep_alive_ms: int | None) -> None:
        request_id, self.next_id = self.next_id, self.next_id + 1
        self.key_of[request_id] = key
        self.unanswered.add(request_id)
        self.send(
            Acquire(
                request_id=request_id,
                spec=LaunchSpec(key=key, name=key, model_path=key, ctx_tokens=ctx_tokens),
                sizings=(Sizing(2, NEEDS[key] + 50), Sizing(1, NEEDS[key])),
                automatic=frozenset({"ctx_tokens"} if is_automatic else ()),
                keep_alive_ms=keep_alive_ms,
            )
        )

    @precondition(lambda self: self.served)
    @rule(data=st.data(), is_completed=st.booleans())
    def release(self, data: st.DataObject, is_completed: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.served)))
        del self.served[request_id]
        self.send(Release(request_id, is_completed))

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.unanswered)))
        self.unanswered.remove(request_id)
        self.send(Release(request_id))

    @precondition(lambda self: self.measuring)
    @rule(free_bytes=st.integers(0, TOTAL_BYTES))
    def measured(self, free_bytes: int) -> None:
        self.measuring = False
        self.reported_free = free_bytes
        self.send(MemoryMeasured(free_bytes, TOTAL_BYTES))

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def loaded(self, data: st.DataObject) -> None:
        self.is_loaded(data.draw(st.sampled_from(sorted(self.loading))))

    def is_loaded(self, key: str) -> None:
        self.loading.remove(key)
        self.up[key] = self.slots[key]
        self.send(Loaded(key))

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def load_failed(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.loading)))
        self.gone(key)
        self.send(LoadFailed(key, Failure(LoadFailedError, "broken")))

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.up)))
        self.served = {request: where for request, where in self.served.items() if where != key}
        was_stopping = key in self.stopping
        needs = self.needs[key]
        self.gone(key)
        if not was_stopping:
            self.needs[key] = needs
        self.send(Exited(key, "killed"))

    @precondition(lambda self: self.stopping)
    @rule(data=st.data())
    def stopped(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.stopping)))
        self.served = {request: where for request, where in self.served.items() if where != key}
        self.gone(key)
        self.send(Stopped(key))

    def gone(self, key: str) -> None:
        self.loading.discard(key)
        self.stopping.discard(key)
        self.up.pop(key, None)
        self.needs.pop(key, None)

    @rule(key=st.sampled_from(KEYS))
    def unload(self, key: str) -> None:
        self.send(UnloadAsked(key))

    @rule(ms=st.sampled_from([1, 500, 1_000, 5_000, 61_000, 301_000]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms
        self.send(Tick())

    @precondition(lambda self: self.next_id > 5)
    @rule(is_forced=st.booleans())
    def shut_down(self, is_forced: bool) -> None:
        self.is_shut = True
        self.is_forced |= is_forced
        self.send(Shutdown(is_forced))
        assert not self.unanswered, "R8"

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "machine"):
            self.machine.check_invariants()
            deadline_ms = self.machine.next_deadline_ms
            assert deadline_ms is None or deadline_ms > self.now_ms, "what is due has been done"

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        for _ in range(1000):
            if self.served:
                request_id = min(self.served)
                del self.served[request_id]
                self.send(Release(request_id, is_completed=True))
            elif self.measuring:
                self.measured(free_bytes=TOTAL_BYTES)
            elif self.stopping:
                key = min(self.stopping)
                self.gone(key)
                self.send(Stopped(key))
            elif self.loading:
                self.is_loaded(min(self.loading))
            elif (deadline_ms := self.machine.next_deadline_ms) is not None:
                self.now_ms = max(self.now_ms, deadline_ms)
                self.send(Tick())
            elif self.up and self.unanswered:
                raise AssertionError("R15: someone waits although nothing is under way")
            elif self.up:  # kept for ever
                assert all(runner.keep_alive_ms == FOREVER_MS for runner in self.machine.runners), "R15"
                self.send(UnloadAsked(min(self.up)))
            else:
                break
        assert not self.unanswered, "R15"
        assert not self.machine.runners, "R15"


TestResidency = World.TestCase
TestResidency.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
