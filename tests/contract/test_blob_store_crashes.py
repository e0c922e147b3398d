"""The store on disk against two dicts, killed at any of its system calls: what was asked for took place or did not."""

import asyncio
import hashlib
import io
import os
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.core.errors import DigestMismatch
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Layer

BODIES: Final = [random.Random(seed).randbytes(size) for seed, size in enumerate((0, 10, 3000, 70_000))]
DIGESTS: Final = [f"sha256:{hashlib.sha256(body).hexdigest()}" for body in BODIES]
PARTED: Final = random.Random(9).randbytes(1000)
PARTED_DIGEST: Final = f"sha256:{hashlib.sha256(PARTED).hexdigest()}"
PART_SIZES: Final = [400, 600]
CONTENTS: Final = dict(zip([*DIGESTS, PARTED_DIGEST], [*BODIES, PARTED], strict=True))
DAYS_NS: Final = 3 * 24 * 3600 * 10**9
COUNTED: Final = ("open", "fsync", "replace", "unlink", "mkdir", "rmdir", "truncate", "utime")

NAMES = st.sampled_from(["tiny:latest", "Tiny:latest", "me/other:v1"])
BLOBS = st.sampled_from(DIGESTS)
KILLS = st.none() | st.integers(0, 20)
"""After how many system calls the process dies; None: not now."""


class Killed(BaseException):
    """The process is gone: nothing of it touches the disk any more, not even its cleaning up."""


class Kernel:
    """Lets so many calls that change the disk pass, and none after them."""

    def __init__(self, calls: int | None) -> None:
        self.left = calls
        self.is_dead = False

    def step(self) -> None:
        if self.left is not None:
            self.is_dead = self.left == 0
            if self.is_dead:
                raise Killed
            self.left -= 1

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            self.step()
            return call(*args, **options)

        return wrapped

    def pwrite(self, handle: int, data: bytes, offset: int) -> int:
        """Half of it is written when the process dies meanwhile."""
        was_dead = self.is_dead
        try:
            self.step()
        except Killed:
            if not was_dead:
                _pwrite(handle, bytes(data)[: len(data) // 2], offset)
            raise
        return _pwrite(handle, data, offset)

    def fdopen(self, handle: int, *_: Any, **__: Any) -> io.FileIO:
        kernel = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                kernel.step()
                return super().write(data)

        return File(handle, "wb")


_pwrite: Final = os.pwrite


@contextmanager
def killed_after(calls: int | None) -> Iterator[None]:
    kernel = Kernel(calls)
    replaced: dict[str, Any] = {name: kernel.counted(getattr(os, name)) for name in COUNTED}
    with mock.patch.multiple(os, pwrite=kernel.pwrite, fdopen=kernel.fdopen, **replaced):
        yield


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


class Store(RuleBasedStateMachine):
    """names: manifests by the name's key, with the casing that came first.  blobs: digests.

    casings: of names whose writing or removal was cut short: their empty directories may stand, and give the casing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-crashes-"))
        self.runner = asyncio.Runner()
        self.store = OllamaStore(self.root)
        self.names: dict[str, tuple[str, bytes]] = {}
        self.blobs: set[str] = set()
        self.casings: set[str] = set()

    def teardown(self) -> None:
        self.runner.close()
        shutil.rmtree(self.root)

    def do(self, work: Callable[[], Awaitable[Any]], kill: int | None) -> bool:
        """Whether it came to its end; else the process died and another one looks at the directory."""

        async def run() -> None:
            await work()

        try:
            with killed_after(kill):
                self.runner.run(run())
        except Killed:
            self.store = OllamaStore(self.root)
            return False
        return True

    def seen(self) -> tuple[dict[str, tuple[str, bytes]], set[str]]:
        manifests = self.runner.run(self.store.manifests())
        found = self.runner.run(self.store.blobs())
        for digest, size_bytes, _ in found:
            assert self.runner.run(self.store.read_blob(digest)) == CONTENTS[digest]
            assert size_bytes == len(CONTENTS[digest])
        return {one.name.key: (one.name.short, one.data) for one in manifests}, {digest for digest, _, _ in found}

    def settle(self, is_done: bool, names: dict[str, tuple[str, bytes]], blobs: set[str]) -> None:
        """What is wanted is the new model; a process that died may have left the old one."""
        if not is_done and self.seen() == (self.names, self.blobs):
            return
        self.names, self.blobs = names, blobs

    @rule(name=NAMES, blobs=st.lists(BLOBS, min_size=1, max_size=3), kill=KILLS)
    def put_manifest(self, name: str, blobs: list[str], kill: int | None) -> None:
        config, *layers = [Layer(manifest.MODEL, digest, len(CONTENTS[digest])) for digest in blobs]
        data = manifest.encode(config, layers)
        parsed = names.parse(name)
        is_done = self.do(lambda: self.store.put_manifest(parsed, data), kill)
        casing = self.names.get(parsed.key, (parsed.short,))[0]
        if parsed.key not in self.names:
            found = self.seen()[0].get(parsed.key, (casing,))[0]
            casing = found if found in self.casings else casing
        if not is_done:
            self.casings.add(casing)
        self.settle(is_done, {**self.names, parsed.key: (casing, data)}, self.blobs)

    @rule(name=NAMES, kill=KILLS)
    def delete_manifest(self, name: str, kill: int | None) -> None:
        parsed = names.parse(name)
        is_done = self.do(lambda: self.store.delete_manifest(parsed), kill)
        if not is_done:
            self.casings.update(casing for key, (casing, _) in self.names.items() if key == parsed.key)
        self.settle(is_done, {key: value for key, value in self.names.items() if key != parsed.key}, self.blobs)

    @rule(digest=BLOBS, whole=st.booleans(), kill=KILLS)
    def write_blob(self, digest: str, whole: bool, kill: int | None) -> None:
        body = CONTENTS[digest] if whole else CONTENTS[digest] + b"?"
        is_wrong = not whole and digest not in self.blobs
        try:
            is_done = self.do(lambda: self.store.write_blob(pieces(body), digest), kill)
        except DigestMismatch:
            assert is_wrong
            return
        assert not (is_done and is_wrong)
        self.settle(is_done, self.names, self.blobs if is_wrong else self.blobs | {digest})

    @rule(digest=BLOBS, kill=KILLS)
    def put_bytes(self, digest: str, kill: int | None) -> None:
        is_done = self.do(lambda: self.store.put_bytes(CONTENTS[digest]), kill)
        self.settle(is_done, self.names, self.blobs | {digest})

    @rule(digest=BLOBS | st.just(PARTED_DIGEST), kill=KILLS)
    def delete_blob(self, digest: str, kill: int | None) -> None:
        is_done = self.do(lambda: self.store.delete_blob(digest), kill)
        self.settle(is_done, self.names, self.blobs - {digest})

    @rule(part=st.integers(0, 1), count=st.integers(1, 500), kill=KILLS)
    def download(self, part: int, count: int, kill: int | None) -> None:
        """Some bytes of one part come; with the last ones the blob is whole."""
        is_whole = False

        async def go_on() -> None:
            nonlocal is_whole
            blob = await self.store.open_parts(PARTED_DIGEST, len(PARTED), PART_SIZES)
            try:
                known = blob.parts[part]
                start = known.offset + known.done_bytes
                await blob.write(part, PARTED[start : min(start + count, known.offset + known.size_bytes)])
                if all(one.done_bytes == one.size_bytes for one in blob.parts):
                    is_whole = True
                    await blob.commit()
            finally:
                await blob.close()

        is_done = self.do(go_on, kill)
        self.settle(is_done, self.names, self.blobs | {PARTED_DIGEST} if is_whole else self.blobs)

    @rule(kill=KILLS)
    def prune(self, kill: int | None) -> None:
        """Days later. One that died has removed some of the waste, and never anything else."""
        later_ns = time.time_ns() + DAYS_NS
        is_done = self.do(lambda: self.store.prune(later_ns), kill)
        used = {digest for _, data in self.names.values() for digest in manifest.decode(data).digests}
        _, left = self.seen()
        assert self.blobs & used <= left <= self.blobs
        if is_done:
            assert left <= used or not self.names
        self.blobs = left

    @invariant()
    def is_what_was_asked_for(self) -> None:
        assert self.seen() == (self.names, self.blobs)

    @invariant()
    def no_temporary_file_counts(self) -> None:
        assert self.runner.run(self.store.used_blobs()) == {
            digest for _, data in self.names.values() for digest in manifest.decode(data).digests
        }


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
