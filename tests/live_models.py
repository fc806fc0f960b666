"""The configurations of PEFT's own tests of TinyLoRA, rebuilt with random weights; and models in PEFT and here."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel


class MLP(nn.Module):
    """PEFT's own (tests/test_custom_models.py)."""

    def __init__(self) -> None:
        super().__init__()
        self.lin0 = nn.Linear(10, 20)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.lin1 = nn.Linear(20, 2)
        self.sm = nn.LogSoftmax(dim=-1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.sm(self.lin1(self.drop(self.relu(self.lin0(x.to(self.lin0.weight.dtype))))))


class DeepMLP(nn.Module):
    """Four layers, of which adapters take some."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(4):
            self.add_module(f"lin{i}", nn.Linear(10, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(4):
            x = torch.tanh(self.get_submodule(f"lin{i}")(x))
        return x


class EmbConv1D(nn.Module):
    """PEFT's own: an embedding, transformers' Conv1D, a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(100, 5)
        self.conv1d = Conv1D(1, 5)
        self.relu = nn.ReLU()
        self.flat = nn.Flatten()
        self.lin0 = nn.Linear(10, 2)
        self.sm = nn.LogSoftmax(dim=-1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.sm(self.lin0(self.flat(self.relu(self.conv1d(self.emb(x))))))


_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 96}
_DECODER = {**_TEXT, "num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 32, "pad_token_id": 0}
_ENCODER = {**_TEXT, "num_hidden_layers": 2, "max_position_embeddings": 40}
_OPT = {
    "hidden_size": 32, "ffn_dim": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 96,
    "word_embed_proj_dim": 32, "max_position_embeddings": 32,
}  # fmt: skip
_GPT = {"n_embd": 32, "n_head": 4, "n_layer": 2, "vocab_size": 96, "n_positions": 32}
_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 96,
    "max_position_embeddings": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model, TinyLoraConfig's arguments, and what the model is called with."""

    model: Callable[[], nn.Module]
    config: dict[str, Any]
    inputs: dict[str, Any] = field(default_factory=dict)


def _built(class_name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model_class = getattr(transformers, class_name)
        model: nn.Module = model_class(model_class.config_class(**settings))
        return model

    return build


_IDS = torch.arange(2, 14).reshape(2, 6)
_FLOATS = torch.linspace(-1, 1, 20).reshape(2, 10)
_PAIRS = torch.arange(3, 63, 3).reshape(2, 10)
_WIDE = {"init_v_bound": 0.5}

_DECODERS = {
    "opt": _built("OPTForCausalLM", **_OPT),
    "gpt2": _built("GPT2LMHeadModel", **_GPT),
    "gptj": _built("GPTJForCausalLM", **_GPT, rotary_dim=4),
    "llama": _built("LlamaForCausalLM", **_DECODER),
    "qwen2": _built("Qwen2ForCausalLM", **_DECODER),
    "mistral": _built("MistralForCausalLM", **_DECODER),
    "gemma3": _built("Gemma3ForCausalLM", **_DECODER, head_dim=8),
}

CASES: dict[str, Case] = {
    "mlp-1": Case(MLP, {"target_modules": "lin0", "u": 16}, {"x": _FLOATS}),
    "mlp-2": Case(MLP, {"target_modules": ["lin0"], "u": 16}, {"x": _FLOATS}),
    "mlp-3": Case(MLP, {"target_modules": ["lin1"], "u": 16}, {"x": _FLOATS}),
    "mlp-4": Case(MLP, {"target_modules": ["lin0", "lin1"], "u": 32}, {"x": _FLOATS}),
    "mlp-5": Case(MLP, {"target_modules": ["lin0"], "modules_to_save": ["lin1"], "u": 16}, {"x": _FLOATS}),
    "mlp-tied": Case(MLP, {"target_modules": ["lin0", "lin1"], "u": 8, "weight_tying": 1.0}, {"x": _FLOATS}),
    "conv1d": Case(EmbConv1D, {"target_modules": ["conv1d"], "u": 16, **_WIDE}, {"x": _PAIRS}),
    "embedding": Case(EmbConv1D, {"target_modules": ["emb"], "u": 16}, {"x": _PAIRS}),
    **{
        name: Case(build, {"target_modules": None, "task_type": "CAUSAL_LM"}, {"input_ids": _IDS})
        for name, build in _DECODERS.items()
    },
    "t5": Case(
        _built("T5ForConditionalGeneration", d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=96),
        {"target_modules": None, "task_type": "SEQ_2_SEQ_LM"},
        {"input_ids": _IDS, "decoder_input_ids": _IDS},
    ),
    "bart": Case(
        _built("BartForConditionalGeneration", **_BART),
        {"target_modules": None, "task_type": "SEQ_2_SEQ_LM"},
        {"input_ids": _IDS, "decoder_input_ids": _IDS},
    ),
    **{
        name: Case(
            _built(class_name, **_ENCODER),
            {"target_modules": None, "task_type": "FEATURE_EXTRACTION"},
            {"input_ids": _IDS},
        )
        for name, class_name in (
            ("bert", "BertModel"),
            ("roberta", "RobertaModel"),
            ("deberta", "DebertaModel"),
            ("deberta-v2", "DebertaV2Model"),
        )
    },
    **{
        name: Case(
            _built(class_name, **settings, num_labels=3),
            {"target_modules": None, "task_type": "SEQ_CLS"},
            {"input_ids": _IDS},
        )
        for name, class_name, settings in (
            ("bert-cls", "BertForSequenceClassification", _ENCODER),
            ("roberta-cls", "RobertaForSequenceClassification", _ENCODER),
            ("llama-cls", "LlamaForSequenceClassification", _DECODER),
        )
    },
}


@contextmanager
def quietly() -> Iterator[None]:
    """Without what PEFT and transformers warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def built(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A case's model, the same each time, in eval mode."""
    with quietly():
        torch.manual_seed(7)
        return CASES[name].model().eval().to(dtype)


def by_peft(model: nn.Module, seed: int = 0, **config: Any) -> Any:
    """PEFT's model of it, with a v that isn't zero."""
    given = {"r": 2, "init_weights": "uniform", "init_v_bound": 0.5, **config}
    with quietly():
        torch.manual_seed(seed)
        return peft.get_peft_model(copy.deepcopy(model), peft.TinyLoraConfig(**given)).eval()


def ours(model: nn.Module, adapter_name: str = "default", **config: Any) -> TinyLoraModel:
    """Our model of it, with a v that isn't zero."""
    given = {"r": 2, "init_weights": "uniform", "init_v_bound": 0.5, **config}
    return TinyLoraModel(copy.deepcopy(model), TinyLoraConfig(**given), adapter_name).eval()


def loaded(model: nn.Module, directory: Path, **options: Any) -> TinyLoraModel:
    """Our model of it with the adapter in a directory."""
    return TinyLoraModel.from_pretrained(copy.deepcopy(model), directory, **options).eval()


def loaded_by_peft(model: nn.Module, directory: Path, **options: Any) -> Any:
    """PEFT's model of it with the adapter in a directory."""
    with quietly():
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), str(directory), **options).eval()


def saved(model: Any, directory: Path) -> Path:
    """The directory that PEFT's model saves itself in."""
    with quietly():
        model.save_pretrained(str(directory))
    return directory


@torch.no_grad()
def output(model: Any, inputs: dict[str, Any], **more: Any) -> torch.Tensor:
    """The logits, or what the model gives first."""
    with quietly():
        found = model(**inputs, **more)
    if isinstance(found, torch.Tensor):
        return found
    logits = getattr(found, "logits", None)
    first: torch.Tensor = found[0] if logits is None else logits
    return first


def off(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())
