"""A real sentence model: its vectors are those of the original, and mean what they ought to."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from nodes import Node, add_model

import minilm

TEXTS = (
    "A cat sits on the mat.",
    "A kitten rests on a rug.",
    "Quarterly revenue grew by 12.5 % in 2024, mostly due to exports.",
    "Der Fluß führt Hochwasser; cafés, naïve façades, 東京 and 😀 are spelled in many ways!",
    "antidisestablishmentarianism ... unaffable",
    "word " * 200,
)


@pytest.fixture(scope="module")
def original() -> minilm.MiniLm:
    return minilm.MiniLm(minilm.folder())


@pytest.fixture(scope="module")
def node(shared_node: Node, original: minilm.MiniLm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Has it as `all-minilm`, and in the end the models that it had."""
    before = shared_node.models()
    path: Path = original.write(tmp_path_factory.mktemp("minilm") / "minilm.gguf")
    add_model(shared_node.url, "all-minilm", path)
    yield shared_node
    for name in shared_node.models() - before:
        assert shared_node.ask("DELETE", "/api/delete", {"model": name}).status_code == 200


def embedded(node: Node, model: str, *texts: str) -> np.ndarray:
    reply = node.ask("POST", "/api/embed", {"model": model, "input": list(texts)})
    assert reply.status_code == 200, reply.text
    return np.array(reply.json()["embeddings"])


def test_vectors_are_those_of_the_original(node: Node, original: minilm.MiniLm) -> None:
    vectors = embedded(node, "all-minilm", *TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    cosines = [float(vector @ original.embed(text)) for vector, text in zip(vectors, TEXTS, strict=True)]
    assert min(cosines) >= 0.99, cosines


def test_what_is_alike_is_near(node: Node) -> None:
    cat, kitten, revenue = embedded(node, "all-minilm", *TEXTS[:3])
    assert cat @ kitten > 0.5 > 0.2 > cat @ revenue


@pytest.mark.parametrize(("quantize", "closeness"), [("q8_0", 0.99), ("q4_K_M", 0.9)])
def test_quantised_it_says_nearly_the_same(node: Node, quantize: str, closeness: float) -> None:
    """Its rows of 384 are no multiple of 256, so that some get types with smaller blocks."""
    name = f"all-minilm:{quantize.lower()}"
    made = node.ask("POST", "/api/create", {"model": name, "from": "all-minilm", "quantize": quantize, "stream": False})
    assert made.json() == {"status": "success"}
    assert node.ask("POST", "/api/show", {"model": name}).json()["details"]["quantization_level"] == quantize.upper()
    pairs = zip(embedded(node, name, *TEXTS), embedded(node, "all-minilm", *TEXTS), strict=True)
    assert min(float(one @ other) for one, other in pairs) >= closeness
