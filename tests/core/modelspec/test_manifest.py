import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.errors import CorruptManifest
from ollamamax.core.modelspec import manifest
from ollamamax.core.modelspec.manifest import Config, Layer
from ollamamax.core.types import GgufFacts, Message

HEX = "ab" * 32
DIGEST = f"sha256:{HEX}"
FACTS = GgufFacts("llama", 9, 8, 3_212_749_888, 2, 512, 64, 128, 4, (4, 4), 16, 16, 259, file_type="Q4_K_M")


def written(**changes: Any) -> bytes:
    layer = {"mediaType": manifest.MODEL, "digest": f"sha256-{HEX.upper()}", "size": 5, "from": "base:latest"}
    config = {"mediaType": manifest.CONFIG_TYPE, "digest": DIGEST, "size": 7, "annotations": {"x": 1}}
    whole = {"schemaVersion": 2, "mediaType": manifest.MANIFEST_TYPE, "config": config, "layers": [layer], "more": None}
    return msgspec.json.encode(whole | changes)


def test_a_manifest_is_read_and_its_digests_normalised() -> None:
    found = manifest.decode(written())
    assert found.layers == (Layer(manifest.MODEL, DIGEST, 5, "base:latest"),)
    assert found.digests == {DIGEST}
    assert found.size_bytes == 12
    assert found.of_type(manifest.PROJECTOR, manifest.MODEL) == list(found.layers)
    assert found.of_type(manifest.LICENSE) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"schemaVersion":2,"mediaType":"\xff"}',
        written(config={"mediaType": "x", "digest": "sha256:../../etc", "size": 1}),
        written(layers=[{"mediaType": "x", "digest": DIGEST, "size": -1}]),
        written(layers=[{"mediaType": "x", "digest": DIGEST, "size": 1 << 63}]),
        written(layers=[{"mediaType": "x", "digest": DIGEST}]),
        written(layers=7),
    ],
)
def test_other_bytes_are_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptManifest):
        manifest.decode(data)


@pytest.mark.parametrize(
    ("read", "before", "after"),
    [
        (manifest.decode, b'{"x":', b"}"),
        (manifest.decode_config, b'{"x":', b"}"),
        (manifest.decode_config, b'{"draft":{"x":', b"}}"),
        (manifest.decode_messages, b'[{"x":', b"}]"),
        (manifest.decode_parameters, b'{"x":', b"}"),
    ],
)
def test_bottomless_nesting_is_corrupt(read: Callable[[bytes], object], before: bytes, after: bytes) -> None:
    with pytest.raises(CorruptManifest, match="can't be read"):
        read(before + b"[" * 100_000 + b"]" * 100_000 + after)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_manifest_or_corrupt(data: bytes) -> None:
    for read in (manifest.decode, manifest.decode_config, manifest.decode_messages, manifest.decode_parameters):
        try:
            read(data)
        except CorruptManifest:
            continue


def test_a_created_manifest_is_gos_json() -> None:
    data = manifest.encode(
        Layer(manifest.CONFIG_TYPE, DIGEST, 7), [Layer(manifest.MODEL, DIGEST, 5, "a<b>&c"), Layer("x", DIGEST, 1)]
    )
    assert data == (
        b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        b'"config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"' + DIGEST.encode() + b'",'
        b'"size":7},"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"' + DIGEST.encode() + b'",'
        b'"size":5,"from":"a\\u003cb\\u003e\\u0026c"},{"mediaType":"x","digest":"'
        + DIGEST.encode()
        + b'","size":1}]}\n'
    )
    assert manifest.decode(data).layers[0].from_model == "a<b>&c"


def test_the_config_of_a_gguf() -> None:
    config = manifest.config_of(FACTS, None)
    assert (config.model_format, config.model_family, config.model_families) == ("gguf", "llama", ("llama",))
    assert (config.model_type, config.file_type) == ("3.2B", "Q4_K_M")
    projector = msgspec.structs.replace(FACTS, architecture="clip")
    assert manifest.config_of(FACTS, projector).model_families == ("llama", "clip")


def test_a_config_names_its_layers_and_comes_back() -> None:
    config = manifest.config_of(FACTS, None)
    data = manifest.encode_config(config, [Layer(manifest.MODEL, DIGEST, 5)])
    assert data.endswith(
        b'"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]}}\n' % DIGEST.encode()
    )
    read = manifest.decode_config(data)
    assert msgspec.structs.replace(read, architecture="", os="", rootfs=None) == config


def test_a_pulled_config_is_read() -> None:
    read = manifest.decode_config(
        b'{"model_format":"gguf","model_family":"qwen3","model_families":null,"model_type":"8.2B","file_type":"Q4_K_M",'
        b'"parser":"qwen3","capabilities":null,"rootfs":{"type":"layers","diff_ids":["a"]},"history":[{}]}'
    )
    assert read == Config(
        model_format="gguf",
        model_family="qwen3",
        model_families=None,
        model_type="8.2B",
        file_type="Q4_K_M",
        parser="qwen3",
        capabilities=None,
        rootfs=manifest.RootFs("layers", ("a",)),
    )


def test_a_corrupt_config_is_named() -> None:
    with pytest.raises(CorruptManifest, match="the model's config can't be read"):
        manifest.decode_config(b'{"model_format":7}')


def test_messages_come_back() -> None:
    messages = (Message("user", "1 < 2?"), Message("assistant", ""))
    data = manifest.encode_messages(messages)
    assert data == b'[{"role":"user","content":"1 \\u003c 2?"},{"role":"assistant","content":""}]\n'
    assert manifest.decode_messages(data) == messages
    assert manifest.decode_messages(b'[{"role":"user","images":["aGk="]}]') == (Message("user"),)


def test_parameters_are_written_as_ollama_writes_them() -> None:
    data = manifest.encode_parameters({"temperature": 0.5, "stop": ["<|im_end|>"], "num_ctx": 4096})
    assert data == b'{"num_ctx":4096,"stop":["\\u003c|im_end|\\u003e"],"temperature":0.5}\n'
    assert manifest.decode_parameters(data) == {"num_ctx": 4096, "stop": ["<|im_end|>"], "temperature": 0.5}
    # The same bytes as Ollama's have the same digest, so that both share the blob.
    stop = manifest.encode_parameters({"stop": ["<|im_start|>", "<|im_end|>"]})
    assert (
        hashlib.sha256(stop).hexdigest()
        == hashlib.sha256(b'{"stop":["\\u003c|im_start|\\u003e","\\u003c|im_end|\\u003e"]}\n').hexdigest()
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((1.0, "1"), (-2.0, "-2"), (0.7, "0.7"), (1e20, "1" + "0" * 20), (True, "true"), (["a"], '["a"]')),
        ("\u2028\u2029", r'"\u2028\u2029"'),
    ],
)
def test_values_are_gos_json(value: Any, text: str) -> None:
    assert manifest.encode_parameters({"x": value}) == f'{{"x":{text}}}\n'.encode()
    assert manifest.decode_parameters(manifest.encode_parameters({"x": value})) == {"x": value}
