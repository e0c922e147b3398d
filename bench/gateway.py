"""The gateway's own cost: CPU per request and per streamed chunk, against a synthetic upstream that answers at once.

Side by side in one run: straight to the upstream (the client's and the upstream's own limit), through nginx where it
is installed, through a node that has the upstream attached as an OpenAI-compatible engine. Figures are CPU time of the
proxy process alone; "per chunk" is what a stream costs beyond a plain request, divided by its chunks.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from common import CpuMeter, call, free_port, machine, median, node, process
from upstream import MODEL

BODY_TEXT = "x" * 900  # with the envelope about 1 kB
CHUNKS = 200


@dataclass
class Result:
    """One path's figures. cpu_*: microseconds of the proxy process; 0 where there is none."""

    name: str
    requests_per_s: float
    latency_p50_us: float
    cpu_request_us: float
    cpu_chunk_us: float
    cpu_paced_chunk_us: float


def body(stream: bool, tokens: int, pause_ms: int = 0) -> dict[str, object]:
    """A /v1/chat/completions request for the upstream's model."""
    message = {"role": "user", "content": BODY_TEXT}
    return {"model": MODEL, "messages": [message], "stream": stream, "max_tokens": tokens, "seed": pause_ms}


async def plain(session: aiohttp.ClientSession, url: str, count: int, parallel: int) -> list[float]:
    """`count` non-streamed requests, `parallel` at once; seconds each."""
    todo = iter(range(count))
    times: list[float] = []

    async def worker() -> None:
        for _ in todo:
            start = time.perf_counter()
            async with session.post(url, json=body(stream=False, tokens=1)) as answer:
                text = await answer.read()
                assert answer.status == 200, text
            times.append(time.perf_counter() - start)

    await asyncio.gather(*(worker() for _ in range(parallel)))
    return times


async def streams(session: aiohttp.ClientSession, url: str, count: int, parallel: int, pause_ms: int) -> None:
    """`count` streams of CHUNKS chunks; each must arrive whole."""
    todo = iter(range(count))

    async def worker() -> None:
        for _ in todo:
            tokens = 0
            async with session.post(url, json=body(stream=True, tokens=CHUNKS, pause_ms=pause_ms)) as answer:
                assert answer.status == 200, await answer.text()
                async for line in answer.content:
                    tokens += b'"token "' in line
            assert tokens == CHUNKS, f"{tokens} of {CHUNKS} chunks arrived"

    await asyncio.gather(*(worker() for _ in range(parallel)))


ROUNDS = 5


async def measure(name: str, base: str, pids: list[int], scale: int) -> Result:
    """All figures of one path: medians of the rounds, since other work on the machine makes single ones dearer."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"{base}/v1/chat/completions"
        await plain(session, url, 300, 16)
        rounds = [await one_round(session, url, pids, scale) for _ in range(ROUNDS)]
    return Result(name, *(median(list(figures)) for figures in zip(*rounds, strict=True)))


async def one_round(session: aiohttp.ClientSession, url: str, pids: list[int], scale: int) -> tuple[float, ...]:
    """The fields of a Result after its name."""
    requests, burst, paced = 1000 * scale, 75 * scale, 64
    start = time.perf_counter()
    with CpuMeter(*pids) as cpu:
        times = await plain(session, url, requests, 16)
    elapsed = time.perf_counter() - start
    request_us = cpu.seconds / requests * 1e6
    with CpuMeter(*pids) as cpu:
        await streams(session, url, burst, 16, pause_ms=0)
    chunk_us = (cpu.seconds / burst * 1e6 - request_us) / CHUNKS
    with CpuMeter(*pids) as cpu:
        await streams(session, url, paced, 32, pause_ms=10)
    paced_us = (cpu.seconds / paced * 1e6 - request_us) / CHUNKS
    return requests / elapsed, median(times) * 1e6, request_us, chunk_us, paced_us


@contextmanager
def nginx(binary: str, upstream: str) -> Iterator[tuple[str, list[int]]]:
    """nginx as a plain streaming reverse proxy with one worker: (base url, worker pids)."""
    import psutil

    with tempfile.TemporaryDirectory(prefix="nginx-bench-") as folder:
        port = free_port()
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
            "events {}\nhttp { access_log off; "
            f"client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; "
            f"uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
            f"upstream up {{ server {upstream.removeprefix('http://')}; keepalive 64; }}\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1; "
            'proxy_set_header Connection ""; proxy_buffering off; } } }\n'
        )
        base = f"http://127.0.0.1:{port}"
        with process([binary, "-e", f"{folder}/error.log", "-c", str(config)], f"{base}/v1/models") as pid:
            workers = [child.pid for child in psutil.Process(pid).children(recursive=True)]
            yield base, [pid, *workers]


def run(scale: int) -> list[Result]:
    """All paths, one after the other, against the same upstream."""
    results: list[Result] = []
    with ExitStack() as stack:
        port = free_port()
        upstream = f"http://127.0.0.1:{port}"
        script = str(Path(__file__).with_name("upstream.py"))
        stack.enter_context(process([sys.executable, script, str(port)], f"{upstream}/v1/models"))
        results.append(asyncio.run(measure("direct", upstream, [], scale)))
        binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if binary:
            with nginx(binary, upstream) as (base, pids):
                results.append(asyncio.run(measure("nginx", base, pids, scale)))
        with node() as (base, pid, _):
            engine = {"name": "upstream", "kind": "openai", "url": upstream, "slots": 256}
            call("POST", f"{base}/admin/v1/engines", engine)
            results.append(asyncio.run(measure("ollamamax", base, [pid], scale)))
    return results


def main() -> int:
    """Print the table; the exit code is 1 if the gateway misses its goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=1, help="times the default number of requests (default 1)")
    results = run(parser.parse_args().scale)
    print(f"machine: {machine()}\n")
    print("| path | requests/s | ratio | p50 us | CPU us/request | CPU us/chunk, burst | CPU us/chunk, paced 10 ms |")
    print("|---|---|---|---|---|---|---|")
    for one in results:
        ratio = one.requests_per_s / results[0].requests_per_s
        print(
            f"| {one.name} | {one.requests_per_s:.0f} | {ratio:.2f} | {one.latency_p50_us:.0f} "
            f"| {one.cpu_request_us:.0f} | {one.cpu_chunk_us:.1f} | {one.cpu_paced_chunk_us:.1f} |"
        )
    ours = results[-1]
    met = ours.cpu_request_us <= 150 and max(ours.cpu_chunk_us, ours.cpu_paced_chunk_us) <= 30
    print(f"\ngoals (<= 150 us per request, <= 30 us per chunk): {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
