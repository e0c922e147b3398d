"""What comes on a connection of the peer listener, however it is cut, and what is no request."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamamax.adapters.network.peer_requests import PeerRequest, PeerRequests
from ollamamax.core.errors import ClientGone

HEAD = b"POST /v1/t.echo HTTP/1.1\r\nHost: x\r\nX-OllamaMax-Protocol: 1-2\r\n"


class Transport:
    """Where answers go. ending: "close" or "abort" once one was asked for."""

    def __init__(self) -> None:
        self.written = b""
        self.ending = ""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.ending = self.ending or "close"

    def abort(self) -> None:
        self.ending = "abort"


class Talk:
    """A connection whose requests are noted. answers: whether they are answered, too."""

    def __init__(self, answers: bool = True) -> None:
        self.transport = Transport()
        self.answers = answers
        self.came: list[tuple[str, str, str | None, int | None, bool]] = []
        self.bodies: list[bytes] = []
        self.gone = 0
        loop = asyncio.get_running_loop()
        self.requests = PeerRequests(cast(asyncio.Transport, self.transport), self.answer, loop)

    async def answer(self, request: PeerRequest) -> None:
        self.came.append((request.method, request.path, request.protocol, request.size_bytes, request.keeps))
        try:
            self.bodies.append(await request.body())
        except ClientGone:
            self.gone += 1
            return
        request.is_answered = self.answers
        if not self.answers:
            await asyncio.Event().wait()

    async def feed(self, data: bytes) -> None:
        self.requests.feed(data)
        for _ in range(3):
            await asyncio.sleep(0)


def talking(talk: Any) -> None:
    asyncio.run(talk())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4), st.lists(st.integers(1, 40)))
def test_however_the_bytes_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    async def talk() -> None:
        talk = Talk()
        for body in bodies:
            data = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            for cut in cuts:
                await talk.feed(data[:cut])
                data = data[cut:]
            if data:
                await talk.feed(data)
        assert talk.bodies == bodies
        assert talk.came == [("POST", "/v1/t.echo", "1-2", len(body), True) for body in bodies]
        assert not talk.transport.ending

    talking(talk)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([HEAD, b"Content-Length: 3\r\n\r\n", b"\r\n"]), max_size=6))
def test_whatever_comes_is_refused_or_a_request(pieces: list[bytes]) -> None:
    async def talk() -> None:
        talk = Talk()
        for piece in pieces:
            await talk.feed(piece)
        assert all(protocol in (None, "1-2") or size is None for _, _, protocol, size, _ in talk.came)
        talk.requests.lose()

    talking(talk)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01",
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
        HEAD + b"x: " + b"y" * 9_000,
        HEAD + b"x: y\r\n" * 1_500 + b"\r\n",
        b"POST /" + b"y" * 9_000,
    ],
    ids=["bytes", "length", "lengths", "field", "fields", "path"],
)
async def test_no_request(data: bytes) -> None:
    for size in (len(data), 100):
        talk = Talk()
        for start in range(0, len(data), size):
            await talk.feed(data[start : start + size])
        assert talk.came == []
        assert talk.transport.written.startswith(b"HTTP/1.1 400 ")
        assert talk.transport.ending == "close"
        before = talk.transport.written
        await talk.feed(HEAD)
        assert talk.transport.written == before


@pytest.mark.parametrize("has_body", [True, False])
async def test_a_second_request_before_the_answer(has_body: bool) -> None:
    whole = HEAD + b"Content-Length: 2\r\n\r\nhi"
    talk = Talk(answers=False)
    await talk.feed(whole + whole if has_body else HEAD + b"\r\n" + HEAD)
    assert talk.transport.ending == "abort"
    assert len(talk.came) <= 1


async def test_the_last_request_of_a_connection() -> None:
    for data in (HEAD + b"Connection: close\r\n\r\n", HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n"):
        talk = Talk()
        await talk.feed(data)
        assert [one[-1] for one in talk.came] == [False]


async def test_who_goes_before_the_body_is_whole() -> None:
    talk = Talk()
    await talk.feed(HEAD + b"Content-Length: 3\r\n\r\nhi")
    task = talk.requests._task
    assert task is not None
    talk.requests.lose()
    await asyncio.gather(task, return_exceptions=True)
    assert talk.bodies == []
    assert task.cancelled() or talk.gone


async def test_what_is_left_of_a_body_nobody_reads_is_not_kept() -> None:
    talk = Talk()
    await talk.feed(HEAD + b"Content-Length: 30\r\n\r\nhi")
    request = talk.requests._request
    assert request is not None
    request.is_answered = True
    await talk.feed(b"more")
    assert request._parts == [b"hi"]
    talk.requests.lose()
