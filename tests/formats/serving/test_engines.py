"""The table of programs, and how it is read from their packages."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import make_engines as script
import pytest

from tinylora_tools.formats.gguf.layout import LAYOUTS
from tinylora_tools.formats.serving.engines import ENGINES, always_tied, commands, engines

VLLM = {
    "vllm/config/lora.py": "from typing import Literal\nMaxLoRARanks = Literal[1, 8, 64]\nclass LoRAConfig:\n"
    "    max_lora_rank: MaxLoRARanks = 8\n",
    "vllm/lora/peft_helper.py": "class PEFTHelper:\n    r: int\n"
    "    def _validate_features(self):\n        return [m for m in self.saved if m not in ['score', 'classifier']]\n",
    "vllm/lora/utils.py": """
def is_base_embedding_weights(name):
    embedding_suffixes = ('.embed_tokens.base_layer.weight',)
    return name.endswith(embedding_suffixes)
""",
    "vllm/model_executor/models/registry.py": "_TEXT_GENERATION_MODELS = {\n"
    "    'OneForCausalLM': ('one', 'OneForCausalLM'),\n    'TwoForCausalLM': ('two', 'TwoForCausalLM'),\n"
    "    'ThreeForCausalLM': ('two', 'ThreeForCausalLM'),\n    'GoneForCausalLM': ('gone', 'GoneForCausalLM'),\n}\n",
    "vllm/model_executor/models/interfaces.py": "class SupportsLoRA:\n    embedding_modules = {}\n",
    "vllm/model_executor/models/one.py": """
from .interfaces import SupportsLoRA

class OneAttention:
    def __init__(self):
        self.qkv_proj = QKVParallelLinear()
        self.o_proj = RowParallelLinear()
        self.norm = RMSNorm()

class OneModel:
    def __init__(self, layer=OneAttention):
        self.layer = layer()

class OneForCausalLM(SupportsLoRA):
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
    embedding_modules = {"embed_tokens": "input_embeddings"}

    def __init__(self, config):
        self.model = OneModel()
        self.lm_head = ParallelLMHead()
        if config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
""",
    "vllm/model_executor/models/two.py": """
from vllm.model_executor.models.one import OneForCausalLM, OneModel

class TwoForCausalLM:
    def __init__(self):
        self.model = OneModel()

    def compute_logits(self, hidden_states):
        return self.logits_processor(self.model.embed_tokens, hidden_states)

class ThreeForCausalLM(OneForCausalLM):
    def __init__(self):
        self.packed_modules_mapping["experts_proj"] = ["a_proj"]
        self.experts = FusedMoE()
        self.experts_proj = ReplicatedLinear()
""",
}


def wheel(path: Path, files: dict[str, str], name: str, release: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in {**files, f"{name}.dist-info/METADATA": f"Name: {name}\nVersion: {release}\n"}.items():
            archive.writestr(inside, text)
    return path


def test_vllm_s_classes_are_read(tmp_path: Path) -> None:
    found = script.vllm(script.files_of(wheel(tmp_path / "vllm-1.2-any.whl", VLLM, "vllm", "1.2")))
    models = found.pop("models")
    assert found == {
        "release": "1.2", "ranks": [1, 8, 64], "default_rank": 8, "rank_pattern": False,
        "saved": ["classifier", "score"], "passed_over": [".embed_tokens.base_layer.weight"],
    }  # fmt: skip
    assert models["OneForCausalLM"] == {
        "modules": ["embed_tokens", "k_proj", "o_proj", "q_proj", "v_proj"],
        "tied": False,
    }
    assert models["TwoForCausalLM"] == {"modules": None, "tied": True}
    assert set(models["ThreeForCausalLM"]["modules"]) >= {"experts", "a_proj", "q_proj", "embed_tokens"}
    assert "GoneForCausalLM" not in models


def test_sglang_s_classes_are_read(tmp_path: Path) -> None:
    files = {
        "sglang/srt/lora/utils.py": "def get_default_hidden_dim(module_name):\n    if module_name == 'qkv_proj':\n"
        "        return 1\n    elif module_name in ('o_proj', 'embed_tokens'):\n        return 2\n"
        "def get_normalized_target_modules(names):\n    params_mapping = {'q_proj': 'qkv_proj'}\n",
        "sglang/srt/models/one.py": VLLM["vllm/model_executor/models/one.py"] + "\nEntryClass = [OneForCausalLM]\n",
        "sglang/srt/models/two.py": """
from .one import OneModel
class Two:
    def __init__(self):
        self.model = OneModel()
        self.lm_head = self.model.embed_tokens
        self.dense = Linear()
    def get_hidden_dim(self, module_name):
        if module_name == 'dense':
            return 1
EntryClass = Two
""",
    }
    found = script.sglang(script.files_of(wheel(tmp_path / "sglang-3-any.whl", files, "sglang", "3")))
    assert (found["release"], found["fused"]) == ("3", {"q_proj": "qkv_proj"})
    assert found["models"] == {
        "OneForCausalLM": {"modules": ["o_proj", "qkv_proj"], "tied": False},
        "Two": {"modules": ["dense"], "tied": True},
    }


def test_llama_cpp_s_classes_are_read(tmp_path: Path) -> None:
    own, other = "(LLM_TENSOR_OUTPUT, 1)", "output = create_tensor(tn(LLM_TENSOR_TOKEN_EMBD, 1))"
    files = {
        "PKG-INFO": "Version: 0.1\n",
        "vendor/llama.cpp/gguf-py/gguf/constants.py": "MODEL_ARCH_NAMES: dict = {ARCH.A: 'a', ARCH.B: 'b'}\n",
        "vendor/llama.cpp/conversion/x.py": """
@ModelBase.register('AForCausalLM', 'A2')
class A(TextModel):
    model_arch = gguf.ARCH.A
@ModelBase.register('BForCausalLM')
class B(A):
    model_arch = gguf.ARCH.B
@ModelBase.register('B2')
class B2(B):
    pass
""",
        "vendor/llama.cpp/src/models/a.cpp": f"{other} {own}",
        "vendor/llama.cpp/src/models/b.cpp": other,
    }
    path = tmp_path / "llama_cpp_python-0.1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"llama_cpp_python-0.1/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    found = script.llama_cpp(script.files_of(path))
    assert found["release"] == "0.1"
    assert {name: (one["architecture"], one["tied"]) for name, one in found["models"].items()} == {
        "AForCausalLM": ("a", False), "A2": ("a", False), "BForCausalLM": ("b", True), "B2": ("b", True),
    }  # fmt: skip


def test_mlx_lm_s_models_are_read(tmp_path: Path) -> None:
    args = "\nclass ModelArgs:\n    pass\n"
    files = {
        "mlx_lm/utils.py": "MODEL_REMAPPING = {'c': 'b'}\n",
        "mlx_lm/tuner/utils.py": "def load_adapters():\n    adapter_leaves = {'lora_a', 'lora_b'}\n",
        "mlx_lm/models/a.py": args + "def call(self):\n    return self.embed.as_linear(1)  # no lm_head\n",
        "mlx_lm/models/b.py": args + "def call(self):\n    return self.lm_head(1) or self.embed.as_linear(1)\n",
        "mlx_lm/models/cache.py": "def call(self):\n    return self.embed.as_linear(1)\n",
    }
    found = script.mlx(script.files_of(wheel(tmp_path / "mlx_lm-2-any.whl", files, "mlx_lm", "2")))
    assert found == {
        "release": "2", "leaves": ["lora_a", "lora_b"],
        "models": {"a": {"tied": True}, "b": {"tied": False}, "c": {"tied": False}},
    }  # fmt: skip


def test_the_table_is_as_the_script_writes_it() -> None:
    text = script.OUTPUT.read_text("utf-8")
    assert script.as_text(json.loads(text)) == text


@pytest.mark.serve
def test_the_table_is_what_the_packages_say() -> None:
    """Run by .ci/serve, which downloads them."""
    packages = [path for path in Path(os.environ["ENGINES"]).iterdir() if path.suffix in (".whl", ".gz")]
    assert script.as_text(script.table(packages)) == script.OUTPUT.read_text("utf-8")


def test_classes_that_gguf_is_written_for_are_llama_cpp_s() -> None:
    models = engines()["llama.cpp"].models
    assert {name: layout.architecture for name, layout in LAYOUTS.items()} == {
        name: models[name]["architecture"] for name in LAYOUTS
    }


def test_heads_that_are_always_the_embedding() -> None:
    assert always_tied("GemmaForCausalLM", "gemma") == (["SGLang", "llama.cpp", "mlx-lm"], ["vLLM"])
    assert always_tied("LlamaForCausalLM", "llama") == ([], ["vLLM", "SGLang", "llama.cpp", "mlx-lm"])
    assert always_tied("Nothing", "nothing") == ([], [])


def test_commands_can_be_typed() -> None:
    for name in ("peft", "gguf", *ENGINES):
        assert any("a b" in line for line in commands(name, Path("a b"), "base", 2))
    assert commands("vllm", Path("o"), "x/y", 9) == [
        "vllm serve x/y --enable-lora --max-lora-rank 16 --lora-modules o=o"
    ]
    assert commands("sglang", Path("d/o"), "my base", 2)[0].endswith(
        "--model-path 'my base' --enable-lora --lora-paths o=d/o"
    )
