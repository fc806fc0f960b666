"""llama.cpp itself, through llama-cpp-python: models and adapters loaded from GGUF, and the logits that they give."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def to_model_gguf(llama_cpp: Path, model: Path, output: Path) -> Path:
    """A checkpoint's directory as a model's GGUF in float32, by llama.cpp's own converter.

    Its tokenizer is left out: the models here have none, and are fed with numbers of tokens.
    """
    script = f"""
import sys
sys.path[:0] = [{str(llama_cpp)!r}, {str(llama_cpp / "gguf-py")!r}]
import gguf
from pathlib import Path
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
directory = Path({str(model)!r})
config = ModelBase.load_hparams(directory, False)
found = get_model_class(get_model_architecture(config, ModelType.TEXT))
def set_vocab(self):
    size = self.hparams["vocab_size"]
    self.gguf_writer.add_tokenizer_model("none")
    self.gguf_writer.add_vocab_size(size)
def set_gguf_parameters(self):  # with entries that transformers 5 writes no more, or elsewhere
    rope = self.hparams.get("rope_parameters") or {{}}
    self.hparams = {{"n_ctx": 64, "rotary_pct": rope.get("partial_rotary_factor"), **self.hparams}}
    super(made, self).set_gguf_parameters()
own = {{"set_vocab": set_vocab, "set_gguf_parameters": set_gguf_parameters}}
made = type("Made", (found,), {{"model_arch": found.model_arch, **own}})
if found.__name__ == "Gemma3Model":  # it cuts the embedding to the tokenizer's size, and there is no tokenizer
    def modify_tensors(self, data, name, bid):
        data = data + self.norm_shift(name)
        yield from super(found, self).modify_tensors(data, name, bid)
    made.modify_tensors = modify_tensors
made(directory, gguf.LlamaFileType.ALL_F32, Path({str(output)!r}), eager=True).write()
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return output


class Model:
    """A model's GGUF, loaded on the CPU; closed with the process."""

    def __init__(self, path: Path) -> None:
        import llama_cpp

        self.library = llama_cpp
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(_silent(llama_cpp), ctypes.c_void_p(0))
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model, f"llama.cpp doesn't load {path}"

    def adapter(self, path: Path) -> Any:
        found = self.library.llama_adapter_lora_init(self.model, str(path).encode())
        assert found, f"llama.cpp doesn't load {path}"
        return found

    def logits(self, tokens: Sequence[int], *adapters: tuple[Any, float]) -> np.ndarray[Any, Any]:
        """(tokens, vocabulary), with adapters and their scales."""
        library, count = self.library, len(tokens)
        parameters = library.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = 64, 64, 64
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.type_k = parameters.type_v = library.GGML_TYPE_F32
        parameters.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = library.llama_init_from_model(self.model, parameters)
        assert context
        if adapters:
            held = (library.llama_adapter_lora_p_ctypes * len(adapters))(*[one for one, _ in adapters])
            scales = (ctypes.c_float * len(adapters))(*[scale for _, scale in adapters])
            assert library.llama_set_adapters_lora(context, held, len(adapters), scales) == 0
        batch = library.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, place, 1
            batch.seq_id[place][0], batch.logits[place] = 0, 1
        assert library.llama_decode(context, batch) == 0
        size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))
        rows = [np.ctypeslib.as_array(library.llama_get_logits_ith(context, place), (size,)) for place in range(count)]
        found = np.array(rows, np.float64)
        library.llama_batch_free(batch)
        library.llama_free(context)
        return found


_CALLBACKS: list[Any] = []


def _silent(library: Any) -> Any:
    if not _CALLBACKS:
        _CALLBACKS.append(library.llama_log_callback(lambda level, text, data: None))
    return _CALLBACKS[0]
