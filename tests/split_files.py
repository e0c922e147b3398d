"""Splits GGUFs as llama.cpp's tool does: the first part has all key-values, each has some of the tensors."""

from pathlib import Path

import gguf


def split(whole: Path, count: int, beside: Path | None = None) -> dict[str, Path]:
    """Writes `<stem>-00001-of-00002.gguf` and so on beside it; the parts by name, in order."""
    reader = gguf.GGUFReader(whole)
    folder, stem = (beside or whole).parent, (beside or whole).stem
    paths = [folder / f"{stem}-{number + 1:05}-of-{count:05}.gguf" for number in range(count)]
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "")
        writer.kv_data[0].clear()
        if number == 0:
            _copy(reader, writer)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number::count]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return {path.name: path for path in paths}


def _copy(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for key, value in reader.fields.items():
        if not key.startswith("GGUF."):
            sub = value.types[1] if len(value.types) > 1 else None
            writer.add_key_value(key, value.contents(), value.types[0], sub_type=sub)
