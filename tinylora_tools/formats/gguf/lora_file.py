"""A LoRA adapter as GGUF, which llama.cpp and Ollama load.

======================================  ============================================================
key                                     value
======================================  ============================================================
``general.type``                        "adapter"
``general.architecture``                the base's, which has to be the model's that it is loaded for
``adapter.type``                        "lora"
``adapter.lora.alpha``                  float32; a module's update is scaled by it over the module's rank
``<weight>.lora_a``                     (r, in); of the embedding (vocab, r)
``<weight>.lora_b``                     (out, r)
======================================  ============================================================

Shapes are NumPy's; GGUF writes them the other way round. Names and the file itself come from the `gguf` package, which
is llama.cpp's own.

Source: src/llama-adapter.cpp and convert_lora_to_gguf.py of llama.cpp 0c1e57098.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import UnsupportedError
from ..tensors import dtype_name


class Pair(NamedTuple):
    """A weight's factors: a (r, in) and b (out, r); of an embedding a (vocab, r) and b (dim, r)."""

    a: NDArray[Any]
    b: NDArray[Any]


def require_gguf() -> Any:
    """The gguf package.

    Raises
    ------
    UnsupportedError
        If it isn't installed.
    """
    try:
        import gguf
    except ImportError:
        raise UnsupportedError(
            "this needs the gguf package, which isn't installed", hint="pip install 'tinylora-tools[gguf]'"
        ) from None
    return gguf


def weight_names(architecture: str, layers: int) -> Callable[[str], str | None]:
    """Names of modules in transformers to those of their weights in llama.cpp, such as blk.0.attn_q; None for those
    that it has no single weight for.

    Parameters
    ----------
    architecture : str
        `general.architecture`.
    layers : int
    """
    gguf = require_gguf()
    known = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(known, layers)

    def find(module: str) -> str | None:
        shorter = module.removeprefix("transformer.")  # as bare models of GPT-2, BLOOM and Falcon have it
        found: str | None = names.get_name(module) or names.get_name(shorter)
        return found

    return find


def within_layer(name: str) -> str:
    """A weight's name without its layer's number: attn_q of blk.0.attn_q."""
    return re.sub(r"^blk\.[0-9]+\.", "", name)


def write_lora(path: Path, architecture: str, name: str, alpha: float, pairs: Mapping[str, Pair]) -> int:
    """Write an adapter's file, its weights in the order of their names; returns its size in bytes.

    Parameters
    ----------
    path : Path
    architecture : str
        `general.architecture`.
    name : str
        What programs show for it.
    alpha : float
    pairs : mapping
        By weights' names; float32, float16 or bfloat16.
    """
    gguf = require_gguf()
    held = {f"{weight}.weight.{part}": one for weight, pair in sorted(pairs.items()) for part, one in _parts(pair)}
    writer = gguf.GGUFWriter(path, architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for weight, values in held.items():
            kind = gguf.GGMLQuantizationType[dtype_name(values.dtype)]
            writer.add_tensor_info(weight, values.shape, np.dtype(np.float32), values.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        [file] = writer.fout
        writer.write_padding(file, file.tell())
        for values in held.values():  # not by the package: NumPy's tofile doesn't say why it failed
            file.write(values.reshape(-1).view(np.uint8).data)
            writer.write_padding(file, values.nbytes)
    finally:
        writer.close()
    return path.stat().st_size


def _parts(pair: Pair) -> Iterable[tuple[str, NDArray[Any]]]:
    return (("lora_a", np.ascontiguousarray(pair.a)), ("lora_b", np.ascontiguousarray(pair.b)))
