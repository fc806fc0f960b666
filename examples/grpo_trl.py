"""Reinforcement with TRL: GRPOTrainer makes PEFT's adapter itself, within `fast_peft`; or trains this tool's own model.

    python examples/grpo_trl.py [--own] [--directory DIR] [--steps 40]

The same task and reward as in reinforcement.py. With --own the trainer gets a TinyLoraModel: to it that is any model of
which 13 numbers are trainable (the model inside doesn't hold them), and saving is the TinyLoraModel's. Needs
`pip install trl`; tried with TRL 1.16.0, on a CPU, without vLLM.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from counting import DIGITS, LENGTH, make_base, open_base, reward, share_of_threes, trainable

from tinylora_tools import nn

SETTINGS: dict[str, Any] = {"r": 2, "u": 13, "weight_tying": 1.0, "target_modules": "all-linear"}


def rewards(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """TRL hands over texts, and what else its dataset has."""
    return [reward(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]


def train(model: Any, tokenizer: Any, directory: Path, steps: int, *, own: bool = False) -> tuple[Any, list[float]]:
    """The trained model, and the mean reward of each step."""
    import peft
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    arguments = GRPOConfig(
        output_dir=str(directory / "trl"), max_steps=steps, per_device_train_batch_size=80, num_generations=8,
        max_completion_length=LENGTH, learning_rate=0.03, lr_scheduler_type="constant", beta=0.0, logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, bf16=False,
        gradient_checkpointing=False,
    )  # fmt: skip
    mine = nn.TinyLoraModel(model, nn.TinyLoraConfig(**SETTINGS)) if own else None
    with nn.fast_peft():  # GRPOTrainer calls get_peft_model
        trainer = GRPOTrainer(
            model=mine or model,
            processing_class=tokenizer,
            reward_funcs=rewards,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": [*DIGITS]}),
            peft_config=peft.TinyLoraConfig(**SETTINGS, task_type="CAUSAL_LM") if mine is None else None,
        )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return mine or trainer.model, [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("counting"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--own", action="store_true", help="this tool's TinyLoraModel in the place of PEFT's")
    options = parser.parse_args(arguments)

    model, tokenizer = open_base(make_base(options.directory / "base"))
    print(f"before: {share_of_threes(model, tokenizer):.0%} count by threes")
    model, history = train(model, tokenizer, options.directory, options.steps, own=options.own)
    print("mean reward of each step:", " ".join(f"{value:.2f}" for value in history))
    print(f"{trainable(model)} trainable numbers; after: {share_of_threes(model, tokenizer):.0%}")
    model.save_pretrained(options.directory / ("adapter-trl-own" if options.own else "adapter-trl"))


if __name__ == "__main__":
    main()
