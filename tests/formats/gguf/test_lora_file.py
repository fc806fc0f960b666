"""The file itself, read back by the gguf package."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
from gguf_files import contents

from tinylora_tools.formats.gguf.lora_file import Pair, weight_names, within_layer, write_lora


def test_what_is_written_is_read(tmp_path: Path) -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    b = np.arange(8, dtype=np.float32).reshape(4, 2)
    half = Pair(a.astype(ml_dtypes.bfloat16), b.astype(np.float16))
    size = write_lora(tmp_path / "x.gguf", "llama", "x", 2.0, {"blk.0.attn_q": Pair(a, b.T.copy().T), "output": half})
    said, held = contents(tmp_path / "x.gguf")
    assert size == (tmp_path / "x.gguf").stat().st_size
    assert (said["general.name"], said["adapter.lora.alpha"]) == ("x", 2.0)
    assert held["blk.0.attn_q.weight.lora_a"] == ("F32", (3, 2), a.tobytes())
    assert held["blk.0.attn_q.weight.lora_b"] == ("F32", (2, 4), b.tobytes())
    assert held["output.weight.lora_a"] == ("BF16", (3, 2), half.a.tobytes())
    assert held["output.weight.lora_b"] == ("F16", (2, 4), half.b.tobytes())


def test_names() -> None:
    find = weight_names("gpt2", 2)
    assert find("transformer.h.1.attn.c_attn") == find("h.1.attn.c_attn") == "blk.1.attn_qkv"
    assert find("transformer.h.2.attn.c_attn") is None
    assert within_layer("blk.12.attn_q") == "attn_q"
    assert within_layer("output") == "output"
