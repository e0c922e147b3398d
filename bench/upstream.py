"""A synthetic OpenAI-compatible server that costs next to nothing: fixed answers, chunks paced or as fast as they go.

Run: python bench/upstream.py PORT. A streamed answer has `max_tokens` chunks; `seed` is the pause between two of
them in milliseconds (0 = none).
"""

import asyncio
import json
import sys
from typing import Any

import uvicorn

MODEL = "bench"
_CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
ANSWER = "x" * 700


def event(text: str, reason: str | None) -> bytes:
    """One chunk, framed."""
    delta = {"content": text} if text else {}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({**_CHUNK, "choices": [choice]}).encode() + b"\n\n"


TOKEN, WHOLE, LAST = event("token ", None), event(ANSWER, None), event("", "stop")


def usage(tokens: int) -> bytes:
    """The closing events of a stream."""
    counts = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    return b"data: " + json.dumps({**_CHUNK, "choices": [], "usage": counts}).encode() + b"\n\ndata: [DONE]\n\n"


async def read_body(receive: Any) -> bytes:
    """The whole body."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def send_json(send: Any, value: object) -> None:
    """A whole JSON answer."""
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(send: Any, tokens: int, pause_s: float) -> None:
    """`tokens` chunks, each sent by itself."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if tokens == 1:  # a plain request's answer, in one piece
        await send({"type": "http.response.body", "body": WHOLE + LAST + usage(1)})
        return
    for _ in range(tokens):
        await send({"type": "http.response.body", "body": TOKEN, "more_body": True})
        await asyncio.sleep(pause_s)
    await send({"type": "http.response.body", "body": LAST + usage(tokens)})


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] != "http":
        return
    if scope["method"] == "GET":
        await send_json(send, {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1}]})
        return
    request = json.loads(await read_body(receive))
    tokens = request.get("max_tokens") or 1
    if request.get("stream"):
        await stream(send, tokens, (request.get("seed") or 0) / 1000)
        return
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
    counts = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    await send_json(send, {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL,
                           "choices": [choice], "usage": counts})  # fmt: skip


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", access_log=False)
