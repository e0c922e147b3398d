"""What a node asks of those that hold the state or are to hold it, itself among them; and what it answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from ollamamax.core.errors import Conflict, OllamaMaxError
from ollamamax.core.types import MemberReport, NodeRecord
from ollamamax.ports import Caller, Etcd, EtcdSeats, PeerLink, PeerMethods
from ollamamax.services import ha_wire, join_wire
from ollamamax.services.ha_wire import Look, LookAsk, Prepare, Which
from ollamamax.services.voter import Voter

_T = TypeVar("_T")
_QUICK_MS: Final = 3_000.0
_LOOK_MS: Final = 25_000.0
_START_MS: Final = 30_000.0
_READY_MS: Final = 65_000.0
_PORT_LOOKS: Final = 30
_PORT_PAUSE_S: Final = 0.2
_MIN_FREE_BYTES: Final = 1 << 30


class HaCalls:
    """find: where a node is found now.  ports: what keeps etcd's ports from being used, "" = nothing."""

    def __init__(
        self,
        voter: Voter,
        etcd: Etcd,
        seats: EtcdSeats,
        link: PeerLink,
        find: Callable[[str], NodeRecord],
        ports: Callable[[], str],
    ) -> None:
        self._voter = voter
        self._me = voter.place.node_id
        self._etcd = etcd
        self._seats = seats
        self._link = link
        self._find = find
        self._ports = ports

    def methods(self) -> PeerMethods:
        """What other nodes may ask of this one."""
        return PeerMethods(
            unary={
                ha_wire.LOOK: self._look,
                ha_wire.PREPARE: self._prepare,
                ha_wire.READY: self._ready,
                ha_wire.CANCEL: self._cancel,
                ha_wire.REPORT: self._report,
            }
        )

    # --- asking -----------------------------------------------------------------------------------------------------

    async def look(self, nodes: Sequence[NodeRecord], external: bool) -> dict[str, Look]:
        """What each could do, by id; who does not answer has that as its trouble."""
        body = join_wire.encode(LookAsk(external=external))
        found = await asyncio.gather(*(self._ask(node, ha_wire.LOOK, body, Look, _LOOK_MS) for node in nodes),
            return_exceptions=True,
        )  # fmt: skip
        return {
            node.node_id: one if isinstance(one, Look) else Look(trouble=_reason(one))
            for node, one in zip(nodes, found, strict=True)
        }

    async def prepare(self, nodes: Sequence[NodeRecord], ask: Prepare) -> None:
        """Raises: Conflict that names who can't."""
        body = join_wire.encode(ask)
        await self._all(nodes, lambda node: self._call(node, ha_wire.PREPARE, body, _START_MS))

    async def ready(self, nodes: Sequence[NodeRecord], generation: int) -> None:
        """Returns once their members know a leader. Raises: Conflict that names whose does not."""
        body = join_wire.encode(Which(generation=generation))
        await self._all(nodes, lambda node: self._call(node, ha_wire.READY, body, _READY_MS))

    async def cancel(self, nodes: Sequence[NodeRecord], generation: int) -> None:
        """As far as they can be reached; else it ends there by itself."""
        body = join_wire.encode(Which(generation=generation))
        calls = (self._call(node, ha_wire.CANCEL, body, _START_MS) for node in nodes)
        await asyncio.gather(*calls, return_exceptions=True)

    async def reports(self, nodes: Sequence[NodeRecord]) -> Mapping[str, MemberReport | None]:
        """How their members are, by id; None for who does not answer."""
        calls = (self._ask(node, ha_wire.REPORT, b"", MemberReport, _QUICK_MS) for node in nodes)
        found = await asyncio.gather(*calls, return_exceptions=True)
        return {
            node.node_id: one if isinstance(one, MemberReport) else None for node, one in zip(nodes, found, strict=True)
        }

    async def _ask(self, node: NodeRecord, method: str, body: bytes, kind: type[_T], timeout_ms: float) -> _T:
        return join_wire.answered(await self._call(node, method, body, timeout_ms), kind)

    async def _call(self, node: NodeRecord, method: str, body: bytes, timeout_ms: float) -> bytes:
        if node.node_id == self._me:
            return await self.methods().unary[method](Caller(self._me), body)
        return await self._link.call(self._find(node.node_id), method, body, timeout_ms=timeout_ms)

    async def _all(self, nodes: Sequence[NodeRecord], call: Callable[[NodeRecord], Awaitable[object]]) -> None:
        done = await asyncio.gather(*(call(node) for node in nodes), return_exceptions=True)
        wrong = [
            f"{node.name}: {_reason(one)}"
            for node, one in zip(nodes, done, strict=True)
            if isinstance(one, BaseException)
        ]
        if wrong:
            raise Conflict("; ".join(wrong))

    # --- answering --------------------------------------------------------------------------------------------------

    async def _look(self, caller: Caller, body: bytes) -> bytes:
        if join_wire.asked(body, LookAsk).external:
            return join_wire.encode(await self._external())
        try:
            program = await self._etcd.program()
        except OllamaMaxError as error:
            return join_wire.encode(Look(trouble=str(error)))
        free_bytes = await self._seats.free_bytes()
        trouble = "" if self._voter.runs_etcd else await self._port_trouble()
        if not trouble and free_bytes < _MIN_FREE_BYTES:
            trouble = f"its disk has only {free_bytes >> 20} MiB left, and etcd needs 1 GiB"
        return join_wire.encode(Look(etcd=program.version, free_bytes=free_bytes, trouble=trouble))

    async def _port_trouble(self) -> str:
        """The etcd of this node's former life may be just ending: killed nodes leave theirs some seconds."""
        for _ in range(_PORT_LOOKS):
            if not (trouble := self._ports()):
                return ""
            await asyncio.sleep(_PORT_PAUSE_S)
        return trouble

    async def _external(self) -> Look:
        if self._voter.place.external is None:
            return Look(trouble="it is not told how etcd is reached: set state.endpoints, state.ca, state.certificate "
                "and state.key there")  # fmt: skip
        try:
            store = await self._voter.external_store()
            try:
                await store.check()
            finally:
                await store.close()
        except OllamaMaxError as error:
            return Look(trouble=str(error))
        return Look(etcd="external")

    async def _prepare(self, caller: Caller, body: bytes) -> bytes:
        ask = join_wire.asked(body, Prepare)
        if self._me not in ask.seat.members:
            raise Conflict("this node is asked to run a member of etcd that is not its own")
        await self._voter.prepare(ask.generation, ask.seat, ask.key, ask.certificate)
        return b""

    async def _ready(self, caller: Caller, body: bytes) -> bytes:
        await self._voter.ready(join_wire.asked(body, Which).generation)
        return b""

    async def _cancel(self, caller: Caller, body: bytes) -> bytes:
        await self._voter.cancel(join_wire.asked(body, Which).generation)
        return b""

    async def _report(self, caller: Caller, body: bytes) -> bytes:
        return join_wire.encode(await self._voter.report())


def _reason(error: object) -> str:
    """Raises: the error, if it is none that can be told."""
    if isinstance(error, BaseException) and not isinstance(error, OllamaMaxError):
        raise error
    return str(error)
