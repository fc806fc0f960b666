"""The small world of the examples: a model that counts, and knows three ways to.

A text is a digit and those that follow it by steps of 1, 2 or 3: "345678", "357913", "369258". The base model learns
all three in equal shares, from random weights, in half a minute on a CPU. Shown "3" it goes on with any of them. The
examples teach 13 numbers to have it count by threes, which it can do already: adapters this small choose among what a
model knows, they don't teach it what it doesn't.

    python examples/counting.py [--directory DIR]

makes the base; the examples make it themselves where it is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, TinyLoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config
from transformers.utils import logging

from tinylora_tools.nn import fast_peft

logging.disable_progress_bar()

DIGITS = "0123456789"

#: Digits that the model writes behind the first one.
LENGTH = 5

#: The step that is taught.
TAUGHT = 3


def counted(first: str, step: int) -> str:
    """The digits behind the first one, counting by `step`."""
    return "".join(DIGITS[(int(first) + step * i) % 10] for i in range(1, LENGTH + 1))


def reward(prompt: str, completion: str) -> float:
    """1 for an answer that counts by threes all the way, else 0. Anyone can check it."""
    return float(completion == counted(prompt, TAUGHT))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A digit, a token."""
    inner = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*DIGITS, "<pad>", "<eos>"])}))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")  # noqa: S106


def batch_of(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Texts of one length as token ids (texts, length)."""
    ids: torch.Tensor = tokenizer(list(texts), return_tensors="pt").input_ids
    return ids


def make_base(directory: Path, *, steps: int = 300, seed: int = 0) -> Path:
    """Train the base model from random weights, and save it with its tokenizer; what is there already is kept."""
    if (directory / "config.json").exists():
        return directory
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    texts = batch_of(tokenizer, [first + counted(first, step) for first in DIGITS for step in (1, 2, 3)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = model(input_ids=texts, labels=texts).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def open_base(directory: Path) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    return AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)


def adapted(model: Any, adapter: Path | None) -> Any:
    """The base with 13 trainable numbers: a new adapter, or one that `tinylora init` or a training wrote."""
    with fast_peft():  # the same model as without, sooner
        if adapter is not None:
            return PeftModel.from_pretrained(model, adapter, is_trainable=True)
        config = TinyLoraConfig(r=2, u=13, weight_tying=1.0, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, config)


def trainable(model: Any) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@torch.no_grad()
def sample(model: Any, prompts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The prompts (n, 1) with digits that the model draws behind them (n, 1 + LENGTH)."""
    texts = prompts
    for _ in range(LENGTH):
        odds = model(input_ids=texts).logits[:, -1].float().softmax(-1)
        texts = torch.cat([texts, torch.multinomial(odds, 1, generator=generator)], dim=1)
    return texts


def share_of_threes(model: Any, tokenizer: Any, *, tries: int = 50, seed: int = 0) -> float:
    """The mean reward of `tries` answers to each digit."""
    generator = torch.Generator().manual_seed(seed)
    texts = tokenizer.batch_decode(sample(model, batch_of(tokenizer, [*DIGITS] * tries), generator))
    return sum(reward(text[0], text[1:]) for text in texts) / len(texts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("counting"))
    base = make_base(parser.parse_args(arguments).directory / "base")
    print(f"{base}: {share_of_threes(*open_base(base)):.0%} of its answers count by threes")


if __name__ == "__main__":
    main()
