"""The state on three voters of etcd, while the leader is killed, and stopped and continued."""

import asyncio
from pathlib import Path

import etcd_faults
import etcds


async def test_nothing_acknowledged_is_lost_when_leaders_go(tmp_path: Path) -> None:
    specs = etcds.specs(tmp_path, 3)
    async with asyncio.timeout(120), etcds.running(*specs, first_pause_s=1.0) as children:
        kill, stop = etcd_faults.killing(children), etcd_faults.stopping(children)
        await etcd_faults.run(specs, (kill, stop, kill, stop))
