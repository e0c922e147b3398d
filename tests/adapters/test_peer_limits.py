"""What callers of the peer listener may cost: time, connections, bytes. Each with a real connection."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ollamamax.adapters.network import tls
from ollamamax.adapters.network.peer_frames import error_of
from ollamamax.adapters.network.peer_pool import LinkLimits
from ollamamax.adapters.network.peer_server import ListenerLimits
from ollamamax.core.errors import (
    BadRequest,
    BodyTimeout,
    BodyTooLarge,
    OllamaMaxError,
    PeerError,
    PeerProtocol,
    PeerUnavailable,
    QueueFull,
    ShuttingDown,
)
from peer_raw import BRISK, CLUSTER, HEAD, Answers, Raw, leakless, refused, told, works
from peer_world import A, C, bounded, linked, listening, open_files


@pytest.fixture(autouse=True)
async def no_leaks() -> AsyncGenerator[None, None]:
    async with leakless():
        yield


@bounded
async def test_who_says_nothing_is_cut_off_before_the_handshake_and_after_it() -> None:
    async with listening(CLUSTER, [Answers().methods], limits=BRISK) as node:
        silent = [Raw(*await asyncio.open_connection("127.0.0.1", node.port)) for _ in range(20)]
        shaken = [await Raw.open(node.port, CLUSTER.keys(A)) for _ in range(2)]
        for raw in [*silent, *shaken]:
            assert await raw.rest() == b""
            raw.close()
        await works(node)


@bounded
async def test_more_handshakes_than_are_allowed_wait_their_turn() -> None:
    limits = ListenerLimits(handshakes=1, handshake_s=0.5)
    async with listening(CLUSTER, [Answers().methods], limits=limits) as node:
        silent = Raw(*await asyncio.open_connection("127.0.0.1", node.port))
        before_s = asyncio.get_running_loop().time()
        async with linked(CLUSTER.keys(C), LinkLimits(connect_s=10.0)) as link:
            assert await link.call(node.record, "t.echo", b"hi", timeout_ms=10_000) == b"hi"
        assert asyncio.get_running_loop().time() - before_s > 0.3
        assert await silent.rest() == b""
        silent.close()


@bounded
async def test_a_head_that_drips_in_is_cut_off() -> None:
    async with listening(CLUSTER, [Answers().methods], limits=BRISK) as node:
        for begun in (b"P", HEAD):
            raw = await Raw.open(node.port, CLUSTER.keys(A))
            await raw.send(begun)
            assert await raw.rest() == b""
            raw.close()
        raw = await Raw.open(node.port, CLUSTER.keys(A))
        for _ in range(2):  # the first one is served, the second one begun and never finished
            await raw.send(HEAD + b"Content-Length: 2\r\n\r\nhi")
            assert await raw.answer() == (200, b"hi")
        await raw.send(b"P")
        assert await raw.rest() == b""
        raw.close()
        await works(node)


@bounded
async def test_a_body_that_drips_in_or_never_comes() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods], limits=BRISK) as node:
        raw = await Raw.open(node.port, CLUSTER.keys(A))
        await raw.send(HEAD + b"Content-Length: 9\r\n\r\nhi")
        status, body = await raw.answer()
        told(body, BodyTimeout)
        assert status == 422
        assert await raw.rest() == b""
        raw.close()
        assert answers.asked == []
        await works(node)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (b"Content-Length: 99999999999\r\n", BodyTooLarge),
        (b"Content-Length: 67108865\r\n", BodyTooLarge),
        (b"Content-Length: 100001\r\n", QueueFull),
        (b"Transfer-Encoding: chunked\r\n", BadRequest),
    ],
)
@bounded
async def test_bodies_that_are_too_large_or_of_unknown_length(fields: bytes, kind: type[OllamaMaxError]) -> None:
    async with listening(CLUSTER, [Answers().methods], limits=BRISK) as node:
        raw = await Raw.open(node.port, CLUSTER.keys(A))
        await raw.send(HEAD + fields + b"\r\n")
        told((await raw.answer())[1], kind)
        assert await raw.rest() == b""
        raw.close()
        await works(node)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/t.echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/t.echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
        HEAD + b"x: y\r\n" * 2_000 + b"\r\n",
    ],
    ids=range(6),
)
@bounded
async def test_garbage_of_a_member(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node:
        answer = await refused(await Raw.open(node.port, CLUSTER.keys(A)), garbage)
        assert b" 200 " not in answer
        assert answers.asked == []
        assert not caplog.records
        await works(node)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/t.echo HTTP/1.1\r\nHost: x\r\nX-OllamaMax-Protocol: 1-1\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX-OllamaMax-Protocol: 1-1\r\n",
        b"POST /v1/t.echo HTTP/1.1\r\nHost: x\r\n",
        HEAD.replace(b"t.echo", b"t.ech%6fx"),
    ],
    ids=["method", "path", "no version", "unknown"],
)
@bounded
async def test_requests_that_are_none(head: bytes) -> None:
    async with listening(CLUSTER, [Answers().methods]) as node:
        raw = await Raw.open(node.port, CLUSTER.keys(A))
        await raw.send(head + b"Content-Length: 0\r\n\r\n")
        assert isinstance(error_of((await raw.answer())[1]), BadRequest | PeerProtocol)
        await raw.send(HEAD + b"Content-Length: 2\r\n\r\nhi")
        assert await raw.answer() == (200, b"hi")
        raw.close()


@bounded
async def test_whoever_sends_ahead_is_cut_off() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node:
        raw = await Raw.open(node.port, CLUSTER.keys(A))
        await raw.send(HEAD.replace(b"t.echo", b"t.wait") + b"Content-Length: 0\r\n\r\n")
        await answers.waiting.wait()
        await raw.send(HEAD)
        assert await raw.rest() == b""
        await answers.over.wait()
        raw.close()


@bounded
async def test_whoever_takes_no_answer_is_cut_off() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods], limits=BRISK) as node:
        raw = await Raw.open(node.port, CLUSTER.keys(A))
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await raw.send(HEAD.replace(b"t.echo", b"t.flood") + b"Content-Length: 0\r\n\r\n")
        await answers.over.wait()
        raw.close()
        await works(node)


@bounded
async def test_one_node_gets_so_many_connections() -> None:
    async with listening(CLUSTER, [Answers().methods], limits=BRISK) as node:
        keys = CLUSTER.keys(A)
        raws = [await Raw.open(node.port, keys) for _ in range(3)]
        assert await refused(await Raw.open(node.port, keys)) == b""
        await works(node)
        await raws[0].send(HEAD + b"Content-Length: 2\r\n\r\nhi")
        assert await raws[0].answer() == (200, b"hi")
        for raw in raws:
            raw.close()
        async with linked(keys) as link:  # and again when they are gone
            while True:
                try:
                    assert await link.call(node.record, "t.echo", b"hi", timeout_ms=5_000) == b"hi"
                    break
                except PeerUnavailable:
                    await asyncio.sleep(0.01)


@bounded
async def test_those_who_join_are_kept_short() -> None:
    async with listening(CLUSTER, [Answers().methods], limits=BRISK) as node:
        raw = await Raw.open(node.port, None, tls.JOIN_NAME)
        await raw.send(HEAD.replace(b"t.echo", b"t.join") + b"Content-Length: 65537\r\n\r\n")
        told((await raw.answer())[1], BodyTooLarge)
        raws = [raw, *[await Raw.open(node.port, None, tls.JOIN_NAME) for _ in range(4)]]
        await works(node)
        for one in raws:
            await one.rest()
            one.close()


@bounded
async def test_closing_lets_answers_finish_and_ends_the_others_with_a_reason() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node, linked(CLUSTER.keys(A)) as link:
        idle = await Raw.open(node.port, CLUSTER.keys(C))
        waiting = asyncio.create_task(link.call(node.record, "t.wait", b"", timeout_ms=5_000))
        await answers.waiting.wait()
        closing = asyncio.create_task(node.server.close(5_000))
        assert await idle.rest() == b""
        idle.close()
        with pytest.raises(PeerUnavailable):
            await link.call(node.record, "t.echo", b"", timeout_ms=5_000)
        answers.gate.set()
        assert await waiting == b"waited"
        await closing
        await node.server.close(0)
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node, linked(CLUSTER.keys(A)) as link:
        stream = link.stream(node.record, "t.drip", b"", idle_ms=5_000)
        assert await anext(stream) == [b"one"]
        await node.server.close(50)
        with pytest.raises(ShuttingDown):
            await anext(stream)
        await answers.over.wait()


@bounded
async def test_answers_that_go_wrong_here(capsys: pytest.CaptureFixture[str]) -> None:
    async with listening(CLUSTER, [Answers().methods]) as node, linked(CLUSTER.keys(A)) as link:
        with pytest.raises(PeerProtocol, match="more than"):
            await link.call(node.record, "t.huge", b"", timeout_ms=5_000)
        stream = link.stream(node.record, "t.bug", b"", idle_ms=5_000)
        assert await anext(stream) == [b"one"]
        with pytest.raises(PeerError) as caught:
            await anext(stream)
        assert "secret" not in str(caught.value)
        assert "a secret of this node" in capsys.readouterr().out  # but the log has it


@bounded
async def test_a_caller_that_goes_while_it_sends_a_body() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node:
        raw = await Raw.open(node.port, CLUSTER.keys(A))
        await raw.send(HEAD + b"Content-Length: 9000\r\n\r\nhi")
        while node.server._answers._reading_bytes != 9_000:
            await asyncio.sleep(0.01)
        raw.close()
        while node.server._answers._reading_bytes:
            await asyncio.sleep(0.01)
        assert answers.asked == []
        await works(node)


@bounded
async def test_a_node_without_descriptors_left_goes_on_when_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, [OSError(24, "Too many open files")] * 2

    async def sock_accept(listening_socket: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop()
        return await accept(listening_socket)

    monkeypatch.setattr(loop, "sock_accept", sock_accept)
    async with listening(CLUSTER, [Answers().methods], limits=ListenerLimits(handshakes=1)) as node:
        async with linked(CLUSTER.keys(C), LinkLimits(connect_s=10.0)) as link:
            assert await link.call(node.record, "t.echo", b"hi", timeout_ms=10_000) == b"hi"
        assert not failures


@bounded
async def test_hundreds_of_strangers_leave_nothing_behind() -> None:
    async with listening(CLUSTER, [Answers().methods]) as node:
        before = open_files()

        async def stranger() -> None:
            assert await refused(await Raw.open(node.port, None)) == b""

        for _ in range(10):
            await asyncio.gather(*(stranger() for _ in range(30)))
        while open_files() > before:
            await asyncio.sleep(0.01)
        assert not node.server._guards
        assert not node.server._count
        await works(node)
