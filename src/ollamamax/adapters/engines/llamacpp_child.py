"""The engine's process: llama.cpp's server on a loopback port, for as long as standard input stays open.

Started as `python -m ollamamax.adapters.engines.llamacpp_child`. Standard input brings one line of JSON: the fields of
`LaunchSpec`, and `api_key`. Once the model is loaded one line `{"port": n}` goes to standard output; llama.cpp's log
goes to standard error. The end of standard input is the end of this process, whatever it is doing: that is how it
dies with its parent, even after `kill -9`.

Imports stay few: they are what starting a small model takes longest.
"""

import json
import os
import sys
import threading
import time
from typing import Any

from ollamamax.adapters.engines.lifeline import die_with_parent

_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_LAST_WORDS_S = 0.2
_MMAP, _PLAIN_READ = 1, 0  # llama_load_mode


def main() -> None:
    """Read the configuration, serve until the parent is gone."""
    config = json.loads(sys.stdin.buffer.readline())
    report = os.dup(1)
    os.dup2(2, 1)  # whatever native code prints belongs to the log
    die_with_parent()
    # A variable of a cloud service's containers that would make llama.cpp listen elsewhere.
    os.environ.pop("AIP_MODE", None)
    os.environ["GGML_NO_BACKTRACE"] = "1"  # no debugger is started in a process that fails
    import xllamacpp

    try:
        server = xllamacpp.Server(parameters(config))
    except (RuntimeError, ValueError):
        time.sleep(_LAST_WORDS_S)  # a thread of llama.cpp writes its log, which tells why, and can't be waited for
        os._exit(1)
    port = int(server.listening_address.rsplit(":", 1)[1])
    os.write(report, json.dumps({"port": port}).encode() + b"\n")
    os.close(report)
    threading.Event().wait()


def parameters(config: dict[str, Any]) -> Any:
    """xllamacpp's CommonParams for a launch. Those not set here keep llama.cpp's defaults."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = config["model_path"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [config["api_key"]]
    params.cors_origins = "localhost"
    params.offline = True
    params.ui = False
    _size(params, config)
    params.use_jinja = True
    params.endpoint_slots = True
    params.sse_ping_interval = 15
    params.embedding = config["embedding"]
    params.ctx_shift = config["context_shift"] and not config["embedding"]
    params.flash_attn_type = xllamacpp.llama_flash_attn_type(_FLASH_ATTENTION[config["flash_attention"]])
    kv_type = xllamacpp.ggml_type[f"GGML_TYPE_{config['kv_cache_type'].upper()}"]
    params.cache_type_k = kv_type
    params.cache_type_v = kv_type
    params.load_mode = xllamacpp.llama_load_mode(_MMAP if config["use_mmap"] else _PLAIN_READ)
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in config["adapter_paths"]]
    if config["projector_path"]:
        params.mmproj.path = config["projector_path"]
    return params


def _size(params: Any, config: dict[str, Any]) -> None:
    """Context, slots, batches, threads, layers: all that decides about memory."""
    params.n_parallel = config["parallel"]
    params.n_ctx = config["ctx_tokens"] * config["parallel"]
    params.kv_unified = False  # each slot its own share: one long conversation can't starve the others
    params.n_batch = config["batch_tokens"]
    # Embedding models without a causal mask need their whole input in one physical batch.
    params.n_ubatch = config["batch_tokens"] if config["embedding"] else min(config["batch_tokens"], 512)
    # The agent admits models by weights, contexts and compute buffers. llama.cpp's cache of old prompts in RAM
    # (8 GiB by default) and its many checkpoints per slot would come on top, so the one is off, the other few.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.n_ctx_checkpoints = 4
    params.n_gpu_layers = config["gpu_layers"]
    # Fitting chooses the number of layers on GPUs where nobody did. It never shrinks a context that is given.
    params.fit_params = config["gpu_layers"] < 0
    if config["main_gpu"] > 0:
        import xllamacpp

        params.main_gpu = config["main_gpu"]
        params.split_mode = xllamacpp.llama_split_mode.LLAMA_SPLIT_MODE_NONE
    if config["threads"] > 0:
        params.cpuparams.n_threads = config["threads"]
        params.cpuparams_batch.n_threads = config["threads"]


if __name__ == "__main__":
    main()
