"""The examples run, and what they train learns."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import counting
import pytest
import reinforcement
import serve
import supervised
import torch
from peft import PeftModel

import tinylora_tools as tl

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the base that the examples share."""
    made = tmp_path_factory.mktemp("counting")
    counting.make_base(made / "base")
    return made


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What an example prints, run with these arguments."""

    def run(main: Callable[[list[str]], None], *arguments: object) -> str:
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


def shares(text: str) -> tuple[float, float]:
    """How much counts by threes, before and after."""
    before, after = (re.search(rf"{when}: (\d+)%", text) for when in ("before", "after"))
    assert before is not None
    assert after is not None
    return int(before[1]) / 100, int(after[1]) / 100


def test_the_base_counts_in_three_ways(directory: Path) -> None:
    model, tokenizer = counting.open_base(directory / "base")
    prompts = counting.batch_of(tokenizer, [*counting.DIGITS] * 30)
    texts = tokenizer.batch_decode(counting.sample(model, prompts, torch.Generator().manual_seed(1)))
    ways = [[text[1:] == counting.counted(text[0], step) for text in texts] for step in (1, 2, 3)]
    assert all(0.2 < sum(way) / len(texts) < 0.45 for way in ways)
    assert sum(map(sum, ways)) > 0.9 * len(texts)


def test_a_reward_is_for_threes_all_the_way() -> None:
    assert counting.counted("3", 3) == "69258"
    assert counting.reward("3", "69258") == 1.0
    assert [counting.reward("3", wrong) for wrong in ("45678", "6925", "69259", "692580", "")] == [0.0] * 5


def test_supervised_learns(directory: Path, printed: Callable[..., str]) -> None:
    text = printed(supervised.main, "--directory", directory)
    before, after = shares(text)
    assert text.startswith("13 trainable numbers")
    assert 0.2 < before < 0.45
    assert after > 0.6
    report = tl.inspect(directory / "adapter-supervised")
    assert report.trainable_parameters == 13


def test_reinforcement_learns(directory: Path, printed: Callable[..., str]) -> None:
    picture = directory / "rewards.svg"
    text = printed(reinforcement.main, "--directory", directory, "--picture", picture)
    before, after = shares(text)
    assert 0.2 < before < 0.45
    assert after > 0.6
    rewards = [float(row) for row in re.findall(r"^ +\d+  ([01]\.\d\d)", text, re.M)]
    assert len(rewards) == 10
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.2
    assert picture.read_text().startswith("<svg")
    model, tokenizer = counting.open_base(directory / "base")
    trained = PeftModel.from_pretrained(model, directory / "adapter-reinforced")
    assert counting.share_of_threes(trained, tokenizer) == pytest.approx(after, abs=0.006)


def test_advantages_compare_within_a_group() -> None:
    same, mixed = reinforcement.advantages(torch.tensor([[1.0, 1, 1, 1], [0.0, 0, 1, 0]]))
    assert torch.equal(same, torch.zeros(4))
    assert float(mixed.sum()) == pytest.approx(0, abs=1e-6)
    assert mixed[2] > 1 > 0 > mixed[0]


def test_training_goes_on_from_an_adapter_of_init(directory: Path, printed: Callable[..., str]) -> None:
    config = tl.TinyLoraConfig(r=2, u=13, weight_tying=1.0, target_modules="all-linear")
    tl.init(directory / "base", directory / "new", config, force=True)
    text = printed(supervised.main, "--directory", directory, "--adapter", directory / "new", "--steps", "40")
    assert text.startswith("13 trainable numbers")
    assert shares(text)[1] > 0.5


@pytest.mark.parametrize("options", [[], ["--own"]], ids=["PEFT's", "our own"])
def test_trl_learns(options: list[str], directory: Path, printed: Callable[..., str]) -> None:
    pytest.importorskip("trl", reason="needs TRL: pip install 'tinylora-tools[examples]'")
    import grpo_trl

    text = printed(grpo_trl.main, "--directory", directory, "--steps", "15", *options)
    before, after = shares(text)
    assert 0.2 < before < 0.45
    assert after > 0.5
    rewards = [float(value) for value in text.partition("each step:")[2].split()[:15]]
    assert sum(rewards[-4:]) / 4 > rewards[0] + 0.1
    assert tl.inspect(directory / f"adapter-trl{'-own' if options else ''}").trainable_parameters == 13


def test_a_model_is_served(directory: Path) -> None:
    server = serve.server_of(*counting.open_base(directory / "base"), port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def ask(body: bytes) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request("POST", "/v1/completions", body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    try:
        code, said = ask(b'{"prompt": "3", "max_tokens": 5}')
        assert code == 200
        assert said["choices"][0]["text"] in [counting.counted("3", step) for step in (1, 2, 3)]
        drawn = {
            ask(json.dumps({"prompt": "3", "temperature": 1, "seed": n}).encode())[1]["choices"][0]["text"]
            for n in range(9)
        }
        assert len(drawn) > 1
        for wrong in (b"nothing", b"{}", b"[]"):
            assert ask(wrong)[0] == 400
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
