"""Nodes for the tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import Cluster, on_loopback, see_each_other
from nodes import Node, add_model

from free_ports import free_port
from models import write_llama


@pytest.fixture
def new_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Makes nodes; ends those that still run."""
    nodes: list[Node] = []

    def make(start: bool = True, **environment: str) -> Node:
        folder = tmp_path / f"node-{len(nodes)}"
        folder.mkdir()
        node = Node(folder, free_port(), environment)
        nodes.append(node)
        return node.start() if start else node

    yield make
    for node in nodes:
        if node.process is not None:
            node.stop()


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all tests that leave it as they found it; has `tiny`, `chain` and `embedder`."""
    folder = tmp_path_factory.mktemp("shared-node")
    node = Node(folder, free_port(), {"OLLAMA_CONTEXT_LENGTH": "1024"}).start()
    write_llama(folder / "chain.gguf", chain=True)
    write_llama(folder / "embedder.gguf", pooling=1)
    add_model(node.url, "chain", folder / "chain.gguf")
    add_model(node.url, "embedder", folder / "embedder.gguf")
    yield node
    assert node.stop() == 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Without nodes yet."""
    made = on_loopback(tmp_path, OLLAMA_CONTEXT_LENGTH="512")
    yield made
    made.stop()


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    """One founded it, two have joined, and each knows what the others have."""
    cluster.found()
    cluster.join()
    cluster.join()
    see_each_other(cluster.nodes)
    return cluster
