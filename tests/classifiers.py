"""Small classifiers that PEFT adapts on a base without their head, as people train them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
import transformers

IDS = torch.arange(3, 51).reshape(4, 12)

_ENCODER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**_ENCODER, "vocab_size": 64}
DECODER = {**TEXT, "num_key_value_heads": 1, "pad_token_id": 0}
_IMAGE = {**_ENCODER, "image_size": 8, "patch_size": 4}

CONFIGS: dict[str, dict[str, Any]] = {
    "Llama": DECODER,
    "Qwen2": {**DECODER, "tie_word_embeddings": True},
    "Bert": TEXT,
    "Roberta": TEXT,
    "Electra": TEXT,
    "DebertaV2": TEXT,
    "DistilBert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": 64},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 64, "pad_token_id": 0},
    "GPTNeoX": {**DECODER, "is_decoder": True},
    "T5": {
        "d_model": 16, "d_ff": 24, "num_layers": 2, "num_heads": 2, "d_kv": 8, "vocab_size": 64, "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    "Bart": {
        "vocab_size": 64, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 40,
    },
    "ViT": _IMAGE,
}  # fmt: skip

_TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}


class Classifier(NamedTuple):
    """A base, an adapter that PEFT saved, the class, and what the model gives with the adapter and without it."""

    base: Path
    adapter: Path
    class_name: str
    adapted: torch.Tensor
    plain: torch.Tensor


def family(class_name: str) -> str:
    return max((name for name in CONFIGS if class_name.startswith(name)), key=len)


def scores(model: Any) -> torch.Tensor:
    """What the model's head gives, in float64."""
    kind = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
    inputs: dict[str, Any] = {"input_ids": IDS}
    if kind.startswith("ViT"):
        inputs = {"pixel_values": torch.linspace(-1, 1, 4 * 3 * 64).reshape(4, 3, 8, 8)}
    if kind.startswith(("T5", "Bart")) and kind.endswith("ForSequenceClassification"):
        ids = IDS.clone()
        ids[:, -1] = 1 if kind.startswith("T5") else 2
        inputs = {"input_ids": ids}
    with torch.no_grad():
        found = model(**inputs)
    both = (found.start_logits, found.end_logits) if kind.endswith("ForQuestionAnswering") else (found.logits,)
    return torch.stack(both).double()


def make_base(directory: Path, class_name: str, **changes: Any) -> Any:
    """A model of random weights, saved there."""
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**{**CONFIGS[family(class_name)], **changes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    return model


def adapt(base: Path, directory: Path, class_name: str, model: Any, *, scale: float = 0.3, **settings: Any) -> Any:
    """An adapter of a model that was loaded from the base, trained to something, and saved there."""
    task = next((task for ending, task in _TASKS.items() if class_name.endswith(ending)), None)
    given = {"r": 2, "u": 5, "task_type": task, **settings}
    model.name_or_path = str(base)
    adapted = peft.get_peft_model(model, peft.TinyLoraConfig(**given)).eval()
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            change = torch.randn(parameter.shape) * scale
            parameter.data = (change if "tinylora_v" in name else parameter.data + change).to(parameter.dtype)
    adapted.save_pretrained(directory)
    return adapted


def make(
    directory: Path, base_class: str, class_name: str, *, labels: int = 3, dtype: str = "float32", **settings: Any
) -> Classifier:
    """An adapter of `class_name` on a base of `base_class`."""
    base, adapter = directory / "base", directory / "adapter"
    make_base(base, base_class)
    asked = 2 if class_name.endswith("ForQuestionAnswering") else labels
    model = getattr(transformers, class_name).from_pretrained(base, num_labels=asked, dtype=dtype)
    adapted = adapt(base, adapter, class_name, model, **settings)
    with adapted.disable_adapter():
        plain = scores(adapted)
    return Classifier(base, adapter, class_name, scores(adapted), plain)


def distance(made: Classifier, found: torch.Tensor) -> float:
    """From the adapted model's scores, relative to the adapter's effect."""
    return float((found - made.adapted).norm() / (made.adapted - made.plain).norm())


def load(directory: Path, class_name: str) -> Any:
    """The model by its Auto class, which has to find all that it needs and nothing more."""
    auto = getattr(transformers, "AutoModel" + class_name[class_name.index("For") :])
    model, told = auto.from_pretrained(directory, output_loading_info=True)
    assert not any(told.values()), told
    assert type(model).__name__ == class_name
    return model.eval()
