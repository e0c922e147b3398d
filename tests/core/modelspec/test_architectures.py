import gguf

from ollamamax.core.modelspec.architectures import ARCHITECTURES
from ollamamax.core.modelspec.ggml_types import FILE_TYPES, TENSOR_TYPES


def test_the_architectures_are_those_of_the_gguf_package() -> None:
    assert set(gguf.MODEL_ARCH_NAMES.values()) == ARCHITECTURES


def test_the_tensor_types_are_those_of_the_gguf_package() -> None:
    known = {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    # The package has the block of before its two floats became halves: 2 * 2 + 32 bytes since. No file holds it.
    q8_1 = int(gguf.GGMLQuantizationType.Q8_1)
    assert TENSOR_TYPES[q8_1] == ("Q8_1", 32, 36)
    assert {**known, q8_1: TENSOR_TYPES[q8_1]} == TENSOR_TYPES


def test_the_file_types_are_those_of_the_gguf_package() -> None:
    known = {
        int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_").removesuffix("_MOE")
        for kind in gguf.LlamaFileType
        if kind.name != "GUESSED"
    }
    assert known.items() <= FILE_TYPES.items()
    assert FILE_TYPES.keys() - known.keys() == {4}, "MXFP4 by Ollama's own number"
