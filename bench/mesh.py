"""Soft state at size: how long until everybody sees everybody, and what an idle node costs.

Two runs on one machine. *Nodes*: each has mesh, membership and fact sheet as in the program, over twins of everything
else; the three routers and one more node have processes of their own, the rest share some. *Light clients*: sessions
that have a token, and some of which follow all tokens, to load three routers, which are real.

Every process has imported what an idle `ollamamax serve` has, so that its memory is a node's but for what a node opens
beside the mesh. USS: of the process alone; RSS: with what it shares with others, code of libraries above all.

All processes share the cores, so that times are those of a machine that does the work of all nodes at once.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import psutil
import zenoh
from msgspec.structs import replace

from common import machine
from ollamamax.adapters.identity import papers
from ollamamax.adapters.identity.authority import FileAuthority
from ollamamax.adapters.network import zenoh_config
from ollamamax.adapters.network.zenoh_mesh import ZenohMesh
from ollamamax.adapters.network.zenoh_reach import reachable
from ollamamax.adapters.system.clock import SystemClock, SystemDice
from ollamamax.adapters.telemetry import logs
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.errors import PeerUnavailable
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.types import EngineKind, EngineModel, LoadedModel, ModelDetails, NodeEngine, NodeFacts, NodeRecord
from ollamamax.ports import MeshConfig, MeshRole, NodeKeys
from ollamamax.services.fact_sheet import FactSheet
from ollamamax.services.membership import Membership, MembershipConfig
from ollamamax.services.node_host import PING, Pong

HERE = Path(__file__).resolve().parent
ROUTERS = 3
CROWDS = 4
FOLLOWING = 10
IDLE_S = 20.0
AS_SERVE = """
import runpy, sys
from ollamamax.cli import serving
serving.import_structlog()
import ollamamax.main, uvloop
folder, script = sys.argv[1:3]
del sys.argv[1:3]
sys.path.insert(0, folder)
runpy.run_path(script, run_name="__main__")
"""
MODELS = 8


class Job(msgspec.Struct):
    """What a child does. numbers: of its nodes, of `count`.  base: the first node's port; each has two."""

    keys: NodeKeys
    numbers: list[int]
    count: int
    base: int
    light: bool = False


def address(base: int, number: int) -> str:
    """Of a node's peer listener; its mesh is on the next port."""
    return f"127.0.0.1:{base + 2 * number}"


def node_id(number: int) -> str:
    """16 hex digits."""
    return f"{number + 1:016x}"


# --- a child: some nodes ---------------------------------------------------------------------------------------


class TcpLink:
    """A node answers direct questions if it takes TCP connections; facts are told by the mesh alone."""

    async def call(self, node: NodeRecord, method: str, body: bytes, *, timeout_ms: float) -> bytes:
        """Raises: PeerUnavailable."""
        if method != PING or not await reachable(node.addresses):
            raise PeerUnavailable("it does not answer")
        return msgspec.msgpack.encode(Pong(node_id=node.node_id, instance="bench", version="1"))


class Fixed:
    """A replica of a state that does not change."""

    def __init__(self, job: Job) -> None:
        records = [self._record(number, job) for number in range(job.count)]
        self.catalog = replace(Catalog.empty(), nodes=MappingProxyType({one.node_id: one for one in records}))

    def watch(self, callback: Callable[[Catalog, Catalog], None]) -> None:
        """Never called."""

    @staticmethod
    def _record(number: int, job: Job) -> NodeRecord:
        return NodeRecord(
            node_id=node_id(number),
            name=f"node-{number}",
            addresses=(address(job.base, number),),
            sequence=number + 1,
            joined_ns=0,
            key_hash=f"{number:064x}",
            version="1",
        )


def facts_of(number: int, role: str) -> NodeFacts:
    """Those of a node with some models, one of them in memory."""
    details = ModelDetails(family="llama", families=("llama",), parameter_size="8B", quantization_level="Q4_K_M")
    loaded = LoadedModel("model-0:latest", "d" * 64, 5 << 30, 5 << 30, 8192, 0, details)
    models = [EngineModel(f"model-{one}:latest", f"model-{one}:latest", loaded=one == 0) for one in range(MODELS)]
    local = NodeEngine(name="local", kind=EngineKind.LLAMACPP, slots=4, models=tuple(models))
    return NodeFacts(
        node_id=node_id(number),
        instance="bench",
        name=f"node-{number}",
        version="1",
        protocol_min=1,
        protocol_max=1,
        addresses=("127.0.0.1:1",),
        role=role,
        engines=(local,),
        loaded=(loaded,),
    )


class WholeNode:
    """Mesh, membership and fact sheet as the program makes them."""

    def __init__(self, number: int, job: Job, replica: Fixed) -> None:
        clock, keys = SystemClock(), replace(job.keys, node_id=node_id(number))
        self.mesh = ZenohMesh()
        self.address = address(job.base, number)
        config = MembershipConfig(keys=lambda: keys, listen=self.address, multicast=False)
        link: Any = TcpLink()
        self.membership = Membership(keys.node_id, self.mesh, link, replica, clock, SystemDice(), config)
        self.sheet = FactSheet(lambda: facts_of(number, self.membership.role), self.mesh, clock)
        self.membership.when_heard(self.sheet.retell)

    def is_full(self, count: int) -> bool:
        """Whether it can use all others and knows their facts."""
        views = self.membership.peers().values()
        return len(views) == count - 1 and all(view.state is PeerState.ALIVE and view.facts for view in views)


class LightClient:
    """A session with a token. Each tenth follows all tokens, inside zenoh: in life each has a machine to do so."""

    def __init__(self, number: int, job: Job) -> None:
        keys = replace(job.keys, node_id=node_id(number))
        routers = [f"127.0.0.1:{job.base + 2 * ((number + one) % ROUTERS) + 1}" for one in range(ROUTERS)]
        config = MeshConfig(keys=keys, role=MeshRole.CLIENT, listen="", connect=tuple(routers), multicast=False)
        self._session: Any = zenoh.open(zenoh_config.session_config(config))
        root = f"omx/{keys.cluster_id}/alive"
        self._token = self._session.liveliness().declare_token(f"{root}/{keys.node_id}")
        self._signs: Any = None
        if number % FOLLOWING == 0:
            ring: Any = zenoh.handlers.RingChannel(4 * job.count)
            self._signs = self._session.liveliness().declare_subscriber(f"{root}/*", ring, history=True)
        self._seen: set[str] = set()

    def is_full(self, count: int) -> bool:
        """Whether it has seen all tokens, if it follows them."""
        while self._signs is not None and (sample := self._signs.try_recv()) is not None:
            self._seen.add(str(sample.key_expr))
        return self._signs is None or len(self._seen) == count


def say(event: str) -> None:
    """To the parent, with the time."""
    print(json.dumps({"event": event, "at": time.time()}), flush=True)


async def be_nodes(job: Job) -> None:
    """Join with all, say when all have joined and when all see all; stay until the parent closes stdin."""
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.buffer.read)
    whole: list[WholeNode] = []
    work = loop.create_task(take_part(job, whole))
    await asyncio.wait({ended})
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await asyncio.gather(*(node.mesh.close() for node in whole))


async def take_part(job: Job, whole: list[WholeNode]) -> None:
    """All but the end of it."""
    async with asyncio.TaskGroup() as tasks:
        nodes: Sequence[WholeNode | LightClient] = whole
        if job.light:
            nodes = [await asyncio.to_thread(LightClient, number, job) for number in job.numbers]
        else:
            replica = Fixed(job)
            for number in job.numbers:
                whole.append(WholeNode(number, job, replica))
                host, _, port = whole[-1].address.rpartition(":")
                await asyncio.start_server(lambda _, writer: writer.close(), host, int(port))
                tasks.create_task(whole[-1].membership.run())
                tasks.create_task(whole[-1].sheet.run())
                # One after the other: many sessions that open at once in one process get in each other's way.
                while not await whole[-1].mesh.alive():
                    await asyncio.sleep(0.02)
        say("joined")
        missing = list(nodes)
        while missing:
            missing = [node for node in missing if not node.is_full(job.count)]
            await asyncio.sleep(0.1)
        say("full")
        await asyncio.Event().wait()


# --- the parent ------------------------------------------------------------------------------------------------


class Child:
    """A process that runs a job."""

    def __init__(self, job: Job) -> None:
        command = [sys.executable, "-c", AS_SERVE, str(HERE), __file__, "--child"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        data = msgspec.msgpack.encode(job)
        self.process.stdin.write(len(data).to_bytes(4, "big") + data)
        self.process.stdin.flush()

    def wait(self, event: str) -> float:
        """When the child says so. Raises: RuntimeError if it ends instead."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            if told["event"] == event:
                return float(told["at"])
        raise RuntimeError(f"a child ended before it was {event}")

    def end(self) -> None:
        """Let it go."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def children(jobs: Sequence[Job]) -> Iterator[list[Child]]:
    """Processes for the jobs; a watchdog ends all when it takes too long."""
    with ExitStack() as stack:
        made = []
        for job in jobs:
            made.append(Child(job))
            stack.callback(made[-1].end)
        yield made


def base_port(count: int) -> int:
    """The first of many ports outside the range that outgoing connections take theirs from, two per node."""
    return random.randrange(10_000, 32_000 - 2 * count, 2)


def idle_cost(processes: Sequence[subprocess.Popen[bytes]]) -> list[tuple[float, float, float]]:
    """Of each, after a while: USS and RSS in MB, and CPU in percent of a core over IDLE_S."""
    watched = [psutil.Process(process.pid) for process in processes]
    before = [sum(one.cpu_times()[:2]) for one in watched]
    time.sleep(IDLE_S)
    spent = [sum(one.cpu_times()[:2]) - start for one, start in zip(watched, before, strict=True)]
    memory = [one.memory_full_info() for one in watched]
    return [(own.uss / 1e6, own.rss / 1e6, cpu / IDLE_S * 100) for own, cpu in zip(memory, spent, strict=True)]


def told(uss_mb: float, rss_mb: float, cpu: float) -> str:
    """A cost in words."""
    return f"USS {uss_mb:.0f} MB, RSS {rss_mb:.0f} MB, {cpu:.2f} % of a core"


def run_nodes(keys: NodeKeys, count: int) -> None:
    """All have everything."""
    base = base_port(count)
    shares = [[number] for number in range(ROUTERS + 1)]
    crowd = list(range(ROUTERS + 1, count))
    shares += [crowd[start::CROWDS] for start in range(CROWDS)]
    jobs = [Job(keys, numbers, count, base) for numbers in shares if numbers]
    with children(jobs[:ROUTERS]) as made, ExitStack() as stack:
        for child in made:
            child.wait("joined")
        began = time.time()
        made += stack.enter_context(children(jobs[ROUTERS:]))
        joined = max(child.wait("joined") for child in made[ROUTERS:])
        full = max(child.wait("full") for child in made)
        print(f"{count} nodes: all joined after {joined - began:.1f} s; full view {full - joined:.1f} s after the last")
        time.sleep(IDLE_S)  # until what follows a join has been done
        costs = idle_cost([child.process for child in made[: ROUTERS + 1]])
    for name, cost in zip(["router"] * ROUTERS + ["client"], costs, strict=True):
        print(f"  idle {name}, alone in its process: {told(*cost)}")


def run_light(keys: NodeKeys, count: int) -> None:
    """Three routers that have everything, and many clients that are light."""
    base = base_port(ROUTERS)
    total = ROUTERS + count
    crowd = list(range(ROUTERS, total))
    # The routers know of themselves alone: nobody tells facts that they could ask for.
    routers = [Job(keys, [number], ROUTERS, base) for number in range(ROUTERS)]
    clients = [Job(keys, crowd[start::CROWDS], total, base, light=True) for start in range(CROWDS)]
    with children(routers) as made, ExitStack() as stack:
        for child in made:
            child.wait("full")
        began = time.time()
        lights = stack.enter_context(children(clients))
        joined = max(child.wait("joined") for child in lights)
        full = max(child.wait("full") for child in lights)
        print(
            f"{count} light clients: joined in {joined - began:.1f} s; full view {full - joined:.1f} s after the last"
        )
        costs = idle_cost([child.process for child in made])
    for cost in costs:
        print(f"  idle router: {told(*cost)}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200, help="whole nodes (0: skip)")
    parser.add_argument("--light", type=int, default=1000, help="light clients (0: skip)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logs.configure("error", json=False)
    if options.child:
        size = int.from_bytes(sys.stdin.buffer.read(4), "big")
        asyncio.run(be_nodes(msgspec.msgpack.decode(sys.stdin.buffer.read(size), type=Job)))
        return
    print(machine())
    with tempfile.TemporaryDirectory(prefix="ollamamax-bench-") as folder:
        authority = FileAuthority.create(Path(folder), "c" * 16, "bench", None, time.time_ns())
        key, request = papers.new_key()
        keys = papers.bind(key, authority.sign(request, node_id(0), time.time_ns()), authority.certificate)
    if options.nodes:
        run_nodes(keys, options.nodes)
    if options.light:
        run_light(keys, options.light)


if __name__ == "__main__":
    main()
