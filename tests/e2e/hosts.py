"""A LAN of hosts with addresses of their own: network namespaces around a bridge, with cuts between them.

::

    test process (10.x.y.254) --+
    host 1       (10.x.y.1)   --+-- bridge, in a namespace of its own
    host 2       (10.x.y.2)   --+
"""

import itertools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from clusters import Cluster
from nodes import LIMIT_S, Node

_COUNTER = itertools.count()


def ip(*words: str) -> None:
    """Run iproute2. Fails with what it said."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def lan_or_skip() -> "Lan":
    """A LAN; where this user may not make one: a skip, and on CI a failure."""
    lan = Lan()
    try:
        lan.open()
    except (AssertionError, OSError) as error:
        lan.close()
        reason = f"network namespaces can't be made here: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return lan


class Lan:
    """Open it, add hosts, close it."""

    def __init__(self) -> None:
        number = (os.getpid() * 7 + next(_COUNTER)) % 64_000
        self.tag = f"om{number:x}"
        self.net = f"10.{number // 256}.{number % 256}"
        self.switch = f"{self.tag}-sw"
        self.hosts: list[str] = []

    def open(self) -> None:
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        ip("-n", self.switch, "link", "set", "br0", "up")
        ip("link", "add", f"{self.tag}r", "type", "veth", "peer", "name", "root", "netns", self.switch)
        ip("-n", self.switch, "link", "set", "root", "master", "br0", "up")
        ip("addr", "add", f"{self.net}.254/24", "dev", f"{self.tag}r")
        ip("link", "set", f"{self.tag}r", "up")

    def add_host(self) -> "Host":
        number = len(self.hosts) + 1
        name = f"{self.tag}-h{number}"
        self.hosts.append(name)
        ip("netns", "add", name)
        ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"p{number}", "netns", self.switch)
        ip("-n", self.switch, "link", "set", f"p{number}", "master", "br0", "up")
        ip("-n", name, "addr", "add", f"{self.net}.{number}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "add", "224.0.0.0/4", "dev", "eth0")
        return Host(self, name, number)

    def close(self) -> None:
        for name in [*self.hosts, self.switch]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=LIMIT_S)
        subprocess.run(["ip", "link", "del", f"{self.tag}r"], capture_output=True, timeout=LIMIT_S)


class Host:
    """One machine of the LAN."""

    def __init__(self, lan: Lan, name: str, number: int) -> None:
        self.lan = lan
        self.name = name
        self.number = number
        self.address = f"{lan.net}.{number}"

    def lose(self, others: "Sequence[Host]") -> None:
        """What it sends to the others is lost from now on; what they send arrives."""
        for other in others:
            ip("-n", self.name, "route", "add", "blackhole", f"{other.address}/32")

    def find(self, others: "Sequence[Host]") -> None:
        """The end of lose()."""
        for other in others:
            ip("-n", self.name, "route", "del", "blackhole", f"{other.address}/32")

    def unplug(self) -> None:
        ip("-n", self.lan.switch, "link", "set", f"p{self.number}", "down")

    def plug_in(self) -> None:
        ip("-n", self.lan.switch, "link", "set", f"p{self.number}", "up")

    def move(self, last: int) -> None:
        """Another address, as a DHCP server would give it."""
        ip("-n", self.name, "addr", "del", f"{self.address}/24", "dev", "eth0")
        self.address = f"{self.lan.net}.{last}"
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "route", "replace", "224.0.0.0/4", "dev", "eth0")


def partition(one: Sequence[Host], other: Sequence[Host]) -> None:
    """Nothing passes between the two groups, in both directions."""
    for host in one:
        host.lose(other)
    for host in other:
        host.lose(one)


def heal(one: Sequence[Host], other: Sequence[Host]) -> None:
    """The end of partition()."""
    for host in one:
        host.find(other)
    for host in other:
        host.find(one)


class HostNode(Node):
    """A node that runs on a host; its public listener can be reached by the test."""

    def __init__(self, host: Host, folder: Path, environment: dict[str, str]) -> None:
        super().__init__(folder, 11434, environment)
        self.host = host

    @property
    def url(self) -> str:
        return f"http://{self.host.address}:{self.port}"

    def command(self) -> list[str]:
        return ["ip", "netns", "exec", self.host.name, *super().command(), "--insecure-public"]

    def env(self) -> dict[str, str]:
        return {
            **super().env(),
            "OLLAMA_HOST": f"0.0.0.0:{self.port}",
            "OLLAMAMAX_PEER__HOST": "",
            "OLLAMAMAX_PEER__PORT": "11435",
            "OLLAMAMAX_PEER__MULTICAST": "true",
        }


class Hosts(Cluster):
    """One node per host."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.hosts: list[Host] = []

        def make(name: str) -> Node:
            home = folder / name
            home.mkdir()
            host = lan.add_host()
            self.hosts.append(host)
            environment = {"OLLAMAMAX_PEER__NODE_NAME": name, "OLLAMA_CONTEXT_LENGTH": "512"}
            return HostNode(host, home, environment)

        super().__init__(make)
