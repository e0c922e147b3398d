"""What stands between zenoh's threads and the event loop: bounded, in order, and never in the way of an end."""

import asyncio
import threading

import pytest

from ollamamax.adapters.network import zenoh_inbox
from ollamamax.adapters.network.zenoh_inbox import LOST, Inbox
from ollamamax.adapters.network.zenoh_reach import reachable
from ollamamax.adapters.network.zenoh_threads import Broken, Calls, Worker
from ollamamax.ports import MeshEvent

WAIT_S = 60.0
SIGN = MeshEvent("a" * 16, True)


def message(number: int, size: int = 1) -> MeshEvent:
    return MeshEvent(f"{number:016x}", None, b"x" * size)


class Panic(BaseException):
    """As a panic of Rust code comes."""


def panic() -> None:
    raise Panic("boom")


async def drained(inbox: Inbox, count: int) -> list[MeshEvent]:
    async with asyncio.timeout(WAIT_S):
        events = [await inbox.get() for _ in range(count)]
    return [event for event in events if event is not None]


async def test_events_of_another_thread_come_in_order() -> None:
    inbox = Inbox()
    sent = [message(number) for number in range(1_000)]

    def send() -> None:
        for event in sent:
            inbox.put(event)

    thread = threading.Thread(target=send)
    thread.start()
    assert await drained(inbox, len(sent)) == sent
    thread.join()


async def test_what_is_too_much_is_dropped_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zenoh_inbox, "MAX_MESSAGES", 3)
    inbox = Inbox()
    for number in range(10):
        inbox.put(message(number))
    inbox.put(SIGN)
    assert await drained(inbox, 5) == [message(0), message(1), message(2), LOST, SIGN]
    inbox.put(message(11))
    assert await drained(inbox, 1) == [message(11)]
    for number in range(5):
        inbox.put(message(number))
    assert (await drained(inbox, 4))[-1] is LOST


async def test_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zenoh_inbox, "MAX_BYTES", 100)
    inbox = Inbox()
    inbox.put(message(0, 80))
    inbox.put(message(1, 80))
    inbox.put(message(2, 20))
    assert await drained(inbox, 3) == [message(0, 80), LOST, message(2, 20)]


async def test_even_signs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zenoh_inbox, "MAX_SIGNS", 2)
    inbox = Inbox()
    for _ in range(5):
        inbox.put(SIGN)
    assert await drained(inbox, 3) == [SIGN, SIGN, LOST]


async def test_closing_wakes_the_reader_and_drops_the_rest() -> None:
    inbox = Inbox()
    reader = asyncio.get_running_loop().create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.close()
    async with asyncio.timeout(WAIT_S):
        assert await reader is None
    inbox.put(SIGN)
    assert await inbox.get() is None


def test_a_loop_that_is_closed_is_no_error() -> None:
    async def make() -> Inbox:
        return Inbox()

    loop = asyncio.new_event_loop()
    inbox = loop.run_until_complete(make())
    loop.close()
    inbox.put(SIGN)
    inbox.put(SIGN)


async def test_a_call_in_a_thread_gives_and_raises() -> None:
    assert await Calls().run(lambda: threading.current_thread() is not threading.main_thread(), WAIT_S)
    with pytest.raises(ZeroDivisionError):
        await Calls().run(lambda: 1 // 0, WAIT_S)
    with pytest.raises(Broken, match="Panic: boom"):
        await Calls().run(panic, WAIT_S)


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_what_comes_too_late_is_disposed_of(is_cancelled: bool) -> None:
    gate, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    disposed: asyncio.Future[str] = loop.create_future()

    def call() -> str:
        loop.call_soon_threadsafe(begun.set)
        gate.wait(WAIT_S)
        return "late"

    def dispose(result: str) -> None:
        loop.call_soon_threadsafe(disposed.set_result, result)

    calls = Calls()
    task = loop.create_task(calls.run(call, WAIT_S if is_cancelled else 0.05, too_late=dispose))
    await begun.wait()
    if is_cancelled:
        task.cancel()
    with pytest.raises(asyncio.CancelledError if is_cancelled else TimeoutError):
        await task
    gate.set()
    async with asyncio.timeout(WAIT_S):
        assert await disposed == "late"
        await calls.finish(WAIT_S)
        await calls.finish(0.0)


async def test_a_thread_that_hangs_is_not_waited_for_long() -> None:
    gate, calls = threading.Event(), Calls()
    with pytest.raises(TimeoutError):
        await calls.run(lambda: gate.wait(WAIT_S), 0.02)
    async with asyncio.timeout(WAIT_S / 2):
        await calls.finish(0.05)
    gate.set()
    await calls.finish(WAIT_S)


async def test_only_addresses_where_somebody_listens_are_reachable() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        addresses = ["127.0.0.1:1", f"127.0.0.1:{port}", "junk", f"localhost:{port}", "[::1]:1", "host.invalid:7"]
        assert await reachable(addresses) == [f"127.0.0.1:{port}", f"localhost:{port}"]
    finally:
        server.close()
        await server.wait_closed()


async def test_a_worker_does_its_jobs_in_order_and_outlives_failures() -> None:
    failures, done = list[Exception](), list[int]()
    worker = Worker(failures.append)
    try:
        for number in range(50):
            assert worker.do(lambda number=number: done.append(number))
        with pytest.raises(ZeroDivisionError):
            await worker.finish(lambda: 1 // 0, WAIT_S)
        with pytest.raises(Broken, match="Panic: boom"):
            await worker.finish(panic, WAIT_S)
        worker.do(panic)
        assert await worker.finish(lambda: len(done), WAIT_S) == 50
        assert [str(error) for error in failures] == ["Panic: boom"]
        assert done == list(range(50))
    finally:
        await worker.close(WAIT_S)
    await worker.close(WAIT_S)


async def test_a_worker_with_too_much_to_do_says_so() -> None:
    gate, worker = threading.Event(), Worker(lambda error: None)
    try:
        worker.do(lambda: gate.wait(WAIT_S))
        with pytest.raises(TimeoutError):
            await worker.finish(lambda: None, 0.05)
        while worker.do(lambda: None):
            pass
        with pytest.raises(TimeoutError):
            await worker.finish(lambda: None, WAIT_S)
    finally:
        gate.set()
        await worker.close(WAIT_S)
