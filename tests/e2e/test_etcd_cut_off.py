"""The leader of three voters of etcd, each on a host of its own, is cut off from the others while it is written to."""

import asyncio
from pathlib import Path

from hosts import Host, heal, lan_or_skip, partition
from msgspec.structs import replace

import etcd_faults
import etcds
from ollamamax.core.types import EtcdSpec


def on_host(spec: EtcdSpec, host: Host, members: dict[str, tuple[str, ...]]) -> EtcdSpec:
    return replace(
        spec,
        client_listen=f"{host.address}:2379",
        peer_listen=f"{host.address}:2380",
        peer_addresses=members[spec.name],
        members=members,
    )


def program_on(host: Host, folder: Path) -> str:
    path = folder / host.name
    path.write_text(f'#!/bin/sh\nexec ip netns exec {host.name} {etcds.etcd_path()} "$@"\n')
    path.chmod(0o755)
    return str(path)


async def test_a_leader_that_is_cut_off_loses_nothing_and_answers_nothing_stale(tmp_path: Path) -> None:
    etcds.etcd_path()
    lan = lan_or_skip()
    try:
        hosts = [lan.add_host() for _ in range(3)]
        members = {f"m{number}": (f"{host.address}:2380",) for number, host in enumerate(hosts)}
        specs = [on_host(spec, host, members) for spec, host in zip(etcds.specs(tmp_path, 3), hosts, strict=True)]
        paths = [program_on(host, tmp_path) for host in hosts]

        async def cut(number: int) -> None:
            partition([hosts[number]], hosts[:number] + hosts[number + 1 :])

        async def mend(number: int) -> None:
            heal([hosts[number]], hosts[:number] + hosts[number + 1 :])

        async with asyncio.timeout(180), etcds.running(*specs, paths=paths):
            await etcd_faults.run(specs, [(cut, mend)] * 2)
    finally:
        lan.close()
