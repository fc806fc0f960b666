"""Supervised: 13 numbers, transformers' Trainer, and examples of what is wanted.

    python examples/supervised.py [--directory DIR] [--steps 60] [--adapter DIR]

The examples are ten texts that count by threes. Trainer is given PEFT's model, and what is saved is an adapter like
any other.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from counting import DIGITS, TAUGHT, adapted, batch_of, counted, make_base, open_base, share_of_threes, trainable
from transformers import PrinterCallback, Trainer, TrainingArguments


def examples(tokenizer: Any) -> list[dict[str, torch.Tensor]]:
    """What Trainer takes: texts, and the same as labels, but for the first digit, which is given (-100)."""
    texts = batch_of(tokenizer, [first + counted(first, TAUGHT) for first in DIGITS])
    labels = texts.clone()
    labels[:, 0] = -100
    return [{"input_ids": ids, "labels": wanted} for ids, wanted in zip(texts, labels, strict=True)]


def train(model: Any, tokenizer: Any, directory: Path, steps: int) -> tuple[float, float]:
    """The loss on the examples before and after."""
    arguments = TrainingArguments(
        output_dir=str(directory / "trainer"), max_steps=steps, per_device_train_batch_size=10, learning_rate=0.03,
        lr_scheduler_type="constant", report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
        per_device_eval_batch_size=10, logging_strategy="no",
    )  # fmt: skip
    data = examples(tokenizer)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    trainer.remove_callback(PrinterCallback)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    return before, trainer.evaluate()["eval_loss"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("counting"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--adapter", type=Path, help="train this one on, not a new one")
    options = parser.parse_args(arguments)

    model, tokenizer = open_base(make_base(options.directory / "base"))
    model = adapted(model, options.adapter)
    print(f"{trainable(model)} trainable numbers; before: {share_of_threes(model, tokenizer):.0%} count by threes")
    before, after = train(model, tokenizer, options.directory, options.steps)
    print(f"loss {before:.3f} before, {after:.3f} after {options.steps} steps")
    print(f"after: {share_of_threes(model, tokenizer):.0%}")
    model.save_pretrained(options.directory / "adapter-supervised")


if __name__ == "__main__":
    main()
