import gguf

from ollamamax.core.modelspec.architectures import ARCHITECTURES
from ollamamax.core.modelspec.ggml_types import FILE_TYPES, TENSOR_TYPES


def test_the_architectures_are_those_of_the_gguf_package() -> None:
    assert set(gguf.MODEL_ARCH_NAMES.values()) == ARCHITECTURES


def test_the_tensor_types_are_those_of_the_gguf_package() -> None:
    known = {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert known == TENSOR_TYPES


def test_the_file_types_are_those_of_the_gguf_package() -> None:
    known = {
        int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_").removesuffix("_MOE")
        for kind in gguf.LlamaFileType
        if kind.name != "GUESSED"
    }
    assert known.items() <= FILE_TYPES.items()
    assert FILE_TYPES.keys() - known.keys() == {4}, "MXFP4 by Ollama's own number"
