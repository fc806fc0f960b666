"""What comes along beside weights, and what doesn't."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from damage import snapshot

from tinylora_tools.errors import UnsupportedError
from tinylora_tools.formats.tokenizer_files import find_tokenizer
from tinylora_tools.output.companions import copy_adapter_files, copy_model_files, model_files

COMES_ALONG = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "vocab.txt", "merges.txt",
    "chat_template.jinja", "modeling_own.py", "sub/preprocessor_config.json", "LICENSE",
)  # fmt: skip
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "tf_model.h5", "flax_model.msgpack", "model.gguf", "onnx/model.onnx", "sub/consolidated.00.pth", "optimizer.pt",
)  # fmt: skip
LITTER = (
    "checkpoint-500/config.json", "checkpoint-500/trainer_state.json", "runs/Nov26/events.out.tfevents.1.host",
    "wandb/run-1/files/output.log", "trainer_state.json", "all_results.json", "global_step100/latest", "latest",
    "zero_to_fp32.py", "pytorch_model_fsdp_0/__0_0.distcp", "weights/__0_1.distcp", "optimizer_0/x", "scheduler.json",
    "rng_state_0.json", "logs/train.txt", "mlruns/0/meta.yaml", "lightning_logs/version_0/hparams.yaml",
    "sub/training_args.json", "__pycache__/modeling_own.cpython-311.pyc",
)  # fmt: skip
#: What only sounds like it.
NO_LITTER = ("checkpoints.md", "tokenizer_results.json", "scheduler/scheduler_config.json", "runs.json", "step.py")
HIDDEN = (".gitattributes", ".cache/x.json")


def fill(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"the {name}")
    return directory


def test_a_model_s_files_but_no_weights(tmp_path: Path) -> None:
    """Nor its card, nor the configuration of an adapter that was saved into it, nor what a training left there."""
    left_out = ("README.md", "readme.md", "adapter_config.json")
    along = (*COMES_ALONG, *NO_LITTER)
    base = fill(tmp_path / "base", *along, *WEIGHTS, *HIDDEN, *LITTER, *left_out)
    (tmp_path / "out").mkdir()
    copy_model_files(base, tmp_path / "out")
    assert snapshot(tmp_path / "out") == {name: f"the {name}".encode() for name in along}
    assert model_files(base) == {name: base / name for name in sorted(along)}


def test_another_tokenizer_in_place_of_the_model_s(tmp_path: Path) -> None:
    """All of it, or the chat template alone."""
    base = fill(tmp_path / "base", "config.json", "tokenizer.json", "vocab.json", "chat_template.jinja", "own.py")
    whole = find_tokenizer(fill(tmp_path / "a", "tokenizer.json", "tokenizer_config.json", "adapter_config.json"))
    template = find_tokenizer(fill(tmp_path / "b", "chat_template.jinja", "additional_chat_templates/x.jinja"))
    assert whole is not None
    assert template is not None
    found = {name: path.parent.name for name, path in model_files(base, whole).items()}
    assert found == {"config.json": "base", "own.py": "base", "tokenizer.json": "a", "tokenizer_config.json": "a"}
    found = {name: path.parent.name for name, path in model_files(base, template).items()}
    expected = dict.fromkeys(("config.json", "own.py", "tokenizer.json", "vocab.json"), "base")
    added = {"chat_template.jinja": "b", "additional_chat_templates/x.jinja": "additional_chat_templates"}
    assert found == {**expected, **added}
    (tmp_path / "out").mkdir()
    copy_model_files(base, tmp_path / "out", template)
    assert snapshot(tmp_path / "out").keys() == found.keys()


def test_an_adapter_s_files_its_card_included_but_no_other_adapter(tmp_path: Path) -> None:
    adapter = fill(
        tmp_path / "adapter", "README.md", "adapter_config.json", "tokenizer.json", "adapter_model.safetensors",
        "second/adapter_config.json", "second/README.md", "trainer_state.json", "optimizer.pt", *HIDDEN,
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    copy_adapter_files(adapter, tmp_path / "out")
    assert sorted(snapshot(tmp_path / "out")) == ["README.md", "adapter_config.json", "tokenizer.json"]


@pytest.mark.parametrize("copy", [copy_model_files, copy_adapter_files])
def test_what_is_written_already_stays(copy: object, tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", "config.json", "tokenizer.json"), tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("the merge's own")
    assert callable(copy)
    copy(source, out)
    assert snapshot(out) == {"config.json": b"the merge's own", "tokenizer.json": b"the tokenizer.json"}


def test_links_into_the_hub_s_cache_are_followed(tmp_path: Path) -> None:
    """It is made of links to its own blobs, also in sub-directories; the output stands alone."""
    repository = tmp_path / "models--owner--name"
    base, out = repository / "snapshots" / "abc", tmp_path / "out"
    fill(repository / "blobs", "a1", "b2")
    (base / "sub").mkdir(parents=True)
    out.mkdir()
    (base / "tokenizer.json").symlink_to("../../blobs/a1")
    (base / "sub" / "x.json").symlink_to("../../../blobs/b2")
    (tmp_path / "named").symlink_to(base)
    for directory in (base, tmp_path / "named"):
        copy_model_files(directory, out)
        assert snapshot(out) == {"tokenizer.json": b"the a1", "sub/x.json": b"the b2"}
        assert not (out / "tokenizer.json").is_symlink()
        (out / "tokenizer.json").unlink()
    (base / "LICENSE").symlink_to("../../../elsewhere/blobs/a1")
    fill(tmp_path / "elsewhere" / "blobs", "a1")
    with pytest.raises(UnsupportedError, match="LICENSE: is a link to"):
        copy_model_files(base, out)


def test_links_within_the_directory_are_followed(tmp_path: Path) -> None:
    base, out = fill(tmp_path / "base", "tokenizer.json", "sub/x.json"), tmp_path / "out"
    out.mkdir()
    (base / "tokenizer_again.json").symlink_to("tokenizer.json")
    copy_model_files(base, out)
    assert (out / "tokenizer_again.json").read_text() == "the tokenizer.json"


@pytest.mark.parametrize("copy", [copy_model_files, copy_adapter_files])
@pytest.mark.parametrize("target", ["/proc/self/environ", "../secret", "../elsewhere", "gone", "loop.json", "sub"])
def test_no_link_leads_out(copy: Callable[[Path, Path], None], target: str, tmp_path: Path) -> None:
    """What is copied may be published: the environment of who merges, with a token in it."""
    base, out = fill(tmp_path / "base", "config.json", "sub/x.json"), tmp_path / "out"
    fill(tmp_path, "secret", "elsewhere/x.json")
    out.mkdir()
    (base / "loop.json").symlink_to(target)
    with pytest.raises(UnsupportedError) as caught:
        copy(base, out)
    assert str(caught.value) == f"{base / 'loop.json'}: is a link to {target}, which is no file in {base}"
    assert caught.value.hint is not None
    assert not (out / "loop.json").exists()


def test_links_that_would_not_be_copied_are_nobody_s_business(tmp_path: Path) -> None:
    base, out = fill(tmp_path / "base", "config.json"), tmp_path / "out"
    out.mkdir()
    for name in ("model.safetensors", "pytorch_model.bin", ".hidden", "README.md"):
        (base / name).symlink_to(tmp_path / "elsewhere")
    copy_model_files(base, out)
    assert list(snapshot(out)) == ["config.json"]
