"""Reinforcement: a reward, and 13 numbers.

    python examples/reinforcement.py [--directory DIR] [--steps 40] [--adapter DIR] [--picture rewards.svg]

Each step the model answers every digit 16 times; an answer that counts by threes has a reward of 1, any other of 0. An
answer's advantage is its reward beside those of the other answers to the same digit, and the 13 numbers move to make
answers likelier by their advantages. That is GRPO (arXiv:2402.03300) with one update a step, for which its clipping and
its reference model make no difference.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from counting import DIGITS, adapted, batch_of, make_base, open_base, reward, sample, share_of_threes, trainable
from rich.console import Console

#: Answers to a prompt.
GROUP = 16


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Each reward beside those of its group (groups, GROUP): how many standard deviations above their mean."""
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)


def log_probabilities(model: Any, texts: torch.Tensor) -> torch.Tensor:
    """Of each text's digits behind the first, (texts,)."""
    odds = model(input_ids=texts[:, :-1]).logits.float().log_softmax(-1)
    return odds.gather(-1, texts[:, 1:, None])[..., 0].sum(1)


def train(model: Any, tokenizer: Any, steps: int, *, learning_rate: float = 0.03, seed: int = 0) -> list[float]:
    """Train whatever of the model is trainable; returns the mean reward of each step."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    prompts = batch_of(tokenizer, [digit for digit in DIGITS for _ in range(GROUP)])
    history = []
    for _ in range(steps):
        texts = sample(model, prompts, generator)
        rewards = torch.tensor([reward(text[0], text[1:]) for text in tokenizer.batch_decode(texts)])
        weights = advantages(rewards.reshape(len(DIGITS), GROUP)).reshape(-1)
        loss = -(weights * log_probabilities(model, texts)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(float(rewards.mean()))
    return history


def show(console: Console, history: list[float], width: int = 50) -> None:
    """A bar for every fourth step."""
    console.print("Mean reward of each step")
    for step, value in enumerate(history):
        if step % 4 == 0:
            console.print(f"{step:4d}  {value:4.2f}  [green]{'━' * round(width * value)}[/green]", highlight=False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("counting"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--adapter", type=Path, help="train this one on, not a new one")
    parser.add_argument("--picture", type=Path, help="an SVG of what is printed")
    options = parser.parse_args(arguments)

    model, tokenizer = open_base(make_base(options.directory / "base"))
    model = adapted(model, options.adapter)
    console = Console(record=True, width=80)
    console.print(
        f"{trainable(model)} trainable numbers; before: {share_of_threes(model, tokenizer):.0%} count by threes"
    )
    show(console, train(model, tokenizer, options.steps))
    console.print(f"after: {share_of_threes(model, tokenizer):.0%}")
    model.save_pretrained(options.directory / "adapter-reinforced")
    if options.picture:
        console.save_svg(str(options.picture), title="Reward")


if __name__ == "__main__":
    main()
