"""One family through every command, against transformers' and PEFT's own results.

What comes of a command is "right", "refused: ..." (an error that says what isn't known or can't be), "warned: ..." or
"wrong: ...".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import small_families
from safetensors.numpy import load_file

import tinylora_tools as tl

Found = dict[str, str]

#: The heads that people train, best known first.
_HEADS = (
    "ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM", "ForSequenceClassification",
    "ForImageClassification", "ForCTC",
)  # fmt: skip

#: Of adapters that are tried: P stored and no vector shared, P left out and vectors shared.
SHAPES: dict[str, dict[str, Any]] = {
    "with P": {"save_projection": True, "weight_tying": 0.0},
    "without P": {"save_projection": False, "weight_tying": 0.5},
}

#: How much of the adapter's own effect a result may be off by: float32's rounding, several layers deep.
CLOSE = 1e-3


def best_known(family: str) -> tuple[str, Any]:
    """The class of a family that people adapt."""
    import make_architectures as script

    classes = script.classes(family)
    name = next((name for end in _HEADS for name in classes if name.endswith(end)), next(iter(classes)))
    return name, classes[name]


def inputs_for(config: Any, model: Any) -> dict[str, Any]:
    """Something to run a model on: text, or what its main input is called."""
    import torch

    generator = torch.Generator().manual_seed(1)
    text = torch.randint(3, 90, (2, 7), generator=generator)
    found: dict[str, Any] = {"input_ids": text}
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", 32)
        size = size if isinstance(size, int) else size[0]
        found = {"pixel_values": torch.randn(2, getattr(config, "num_channels", 3), size, size, generator=generator)}
    elif model.main_input_name == "input_features":
        bins = getattr(config, "num_mel_bins", 8)
        length = 2 * getattr(config, "max_source_positions", 32)
        found = {"input_features": torch.randn(2, bins, length, generator=generator)}
    elif model.main_input_name == "input_values":
        found = {"input_values": torch.randn(2, 4000, generator=generator)}
    if getattr(config, "is_encoder_decoder", False):
        found["decoder_input_ids"] = text
    return found


def outputs_of(model: Any, inputs: Mapping[str, Any]) -> Any:
    """The logits, or the first output."""
    import torch

    with torch.no_grad():
        try:
            result = model(**inputs, use_cache=False)
        except TypeError:
            result = model(**inputs)
    found = getattr(result, "logits", None)
    return (found if found is not None else result[0]).double()


#: Switches in a configuration that are about a run, or are tried otherwise.
_NO_SWITCH = (
    "use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
    "is_encoder_decoder", "is_decoder", "tie_word_embeddings", "add_cross_attention",
)  # fmt: skip


def switched(family: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each switch of a family's small configuration by its path, and the entries that turn it."""
    from tinylora_tools.ops.architecture.scales import entries

    for path, value in entries(small_families.small_config(family).to_dict()):
        *parents, last = path.split(".")
        if isinstance(value, bool) and last not in _NO_SWITCH and not last.startswith("_"):
            changes: dict[str, Any] = {last: not value}
            for parent in reversed(parents):
                changes = {parent: changes}
            yield path, changes


class FamilyRun:
    """A small model of a family with a PEFT adapter of all its layers, and what each command makes of them.

    Parameters
    ----------
    family : str
    directory : Path
        To work in.
    save_projection, weight_tying
        Of the adapter's configuration.
    changes : mapping
        Entries of the model's configuration, in place of the small one's.
    """

    def __init__(
        self,
        family: str,
        directory: Path,
        *,
        save_projection: bool = True,
        weight_tying: float = 0.0,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        import peft
        import torch

        self.family, self.directory = family, directory
        self.class_name, self.model_class = best_known(family)
        self.config = small_families.small_config(family, **(changes or {}))
        self.config.architectures = [self.class_name]
        self.base, self.adapter = directory / "base", directory / "adapter"
        small_families.random_model(self.model_class, self.config, torch.float32).save_pretrained(self.base)
        model = self._loaded(self.base)
        self.inputs = inputs_for(self.config, model)
        self.plain = outputs_of(model, self.inputs)
        targets = small_families.targets_of(model, family, self.class_name)
        self.peft_config = peft.TinyLoraConfig(
            r=2, u=4, target_modules=targets, weight_tying=weight_tying, save_projection=save_projection,
            projection_seed=3,
        )  # fmt: skip
        live = peft.get_peft_model(model, self.peft_config).eval()
        torch.manual_seed(2)
        with torch.no_grad():
            for name, parameter in live.named_parameters():
                if "tinylora_v" in name:
                    parameter.uniform_(-0.5, 0.5)
        live.save_pretrained(self.adapter)
        self.live = outputs_of(live, self.inputs)
        self.targets = targets
        self.trainable = sum(p.numel() for p in live.parameters() if p.requires_grad)
        self.effect = float((self.live - self.plain).abs().max())

    def _loaded(self, directory: Path) -> Any:
        import torch

        return self.model_class.from_pretrained(directory, dtype=torch.float32).eval()

    def run(self, *only: str) -> Found:
        """What each command makes of it, or those of these names."""
        steps: dict[str, Callable[[], str]] = {
            "merge": self._merge,
            "convert lora": self._lora,
            "verify-base": self._verify_base,
            "verify-seed": self._verify_seed,
            "init": self._init,
            "count": self._count,
        }
        return {name: _outcome(step) for name, step in steps.items() if not only or name in only}

    def _off(self, outputs: Any) -> str:
        error = float((outputs - self.live).abs().max()) / self.effect
        return "right" if error < CLOSE else f"wrong: off by {error:.3g} of the adapter's effect"

    def _merge(self) -> str:
        tl.merge([self.adapter], self.directory / "merged", base=self.base, release="5")
        return self._off(outputs_of(self._loaded(self.directory / "merged"), self.inputs))

    def _lora(self) -> str:
        import peft

        made = tl.to_lora([self.adapter], self.directory / "lora", base=self.base, dtype="float32", release="5")
        model = peft.PeftModel.from_pretrained(self._loaded(self.base), self.directory / "lora").eval()
        found = self._off(outputs_of(model, self.inputs))
        warned = [text for text in made.warnings if "drops what belongs to other layers" in text]
        return f"warned: {warned[0]}" if found != "right" and warned else found

    def _verify_base(self) -> str:
        report = tl.verify_base(self.adapter, self.base)
        if report.verdict == "unknown":  # which is no verdict
            return f"refused: {next(module.note for module in report.modules if module.verdict == 'unknown')}"
        return "right" if report.verdict == "same-weights" else f"wrong: {report.verdict}"

    def _verify_seed(self) -> str:
        report = tl.verify_seed(self.adapter, base=self.base)
        return "right" if report.ok else "wrong: the P of PEFT aren't recognised"

    def _init(self) -> str:
        made = self.directory / "made"
        tl.init(self.base, made, config=self._config())
        ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (made, self.adapter))
        if ours.keys() != theirs.keys():
            return f"wrong: keys differ, such as {sorted(ours.keys() ^ theirs.keys())[:2]}"
        for key, other in theirs.items():
            one = ours[key]
            if one.shape != other.shape or one.dtype != other.dtype:
                return f"wrong: {key} is {one.dtype} {one.shape}, PEFT's {other.dtype} {other.shape}"
            if "tinylora_P" in key and (one != other).any():
                return f"wrong: {key} differs"
        return "right"

    def _count(self) -> str:
        report = tl.count(self.base, config=self._config())
        return "right" if report.trainable_parameters == self.trainable else "wrong: another number of parameters"

    def _config(self) -> Any:
        given = self.peft_config
        return tl.TinyLoraConfig(
            r=given.r, u=given.u, target_modules=tuple(self.targets), weight_tying=given.weight_tying,
            save_projection=given.save_projection, projection_seed=given.projection_seed,
        )  # fmt: skip


def _outcome(step: Callable[[], str]) -> str:
    try:
        return step()
    except (tl.UndeterminedError, tl.UnsupportedError) as error:
        return f"refused: {error}"
    except tl.TinyLoraError as error:
        kind = "refused" if "the merge failed: " in str(error) else f"wrong: {type(error).__name__}"
        return f"{kind}: {error}"
