"""Make tinylora_tools/data/architectures.jsonl from transformers: what is to be known of every class of every family.

Run the first command in an environment of each generation of transformers, the older one first, then the second; the
third prints what the file says of a family. Both environments need timm, torchvision, scipy, einops and this package:

    python scripts/make_architectures.py collect transformers-4.json
    python scripts/make_architectures.py collect transformers-5.json --older transformers-4.json
    python scripts/make_architectures.py merge transformers-5.json transformers-4.json
    python scripts/make_architectures.py show llama

Every class is built on the meta device from its default configuration, at full depth, and in the shapes below, and
described by tinylora_tools.ops.architecture: nothing here is written for one family but what its configuration needs.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "tinylora_tools" / "data" / "architectures.jsonl"

#: Shapes of a family that have other modules than its defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "bart": [{"scale_embedding": True}],
    "bloom": [{"slow_but_exact": True}],
    "cohere": [{"use_qk_norm": True}],
    "deberta": [{"type_vocab_size": 2}, {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}],
    "deberta-v2": [
        {"type_vocab_size": 2},
        {"position_buckets": 8, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": False, "conv_kernel_size": 3},
        {"legacy": False},
        {"embedding_size": 16},
    ],
    "deepseek_v2": [{"q_lora_rank": None}],
    "deepseek_v3": [{"q_lora_rank": None}],
    "electra": [{"embedding_size": 16}],
    "falcon": [
        {"new_decoder_architecture": True, "num_kv_heads": 2},
        {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True},
        {"new_decoder_architecture": False, "multi_query": False, "parallel_attn": False, "alibi": True, "bias": True},
    ],
    "gpt2": [{"add_cross_attention": True}],
    "gpt_neox": [{"use_parallel_residual": False}],
    "mistral": [{"sliding_window": None}],
    "opt": [{"word_embed_proj_dim": 16}],
    "phi": [{"qk_layernorm": True}],
    "qwen2_moe": [{"mlp_only_layers": [1], "decoder_sparse_step": 1}],
    "qwen3_moe": [{"mlp_only_layers": [1], "decoder_sparse_step": 1}],
    "smollm3": [{"no_rope_layers": [1, 1, 0] * 12}],
    "stablelm": [{"qk_layernorm": True}, {"use_parallel_residual": True}],
    "t5": [{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}],
}

_MROPE = {"rope_type": "default", "mrope_section": [24, 20, 20]}
_REPVIT = {
    "model_type": "timm_wrapper",
    "architecture": "repvit_m1",
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}

#: What transformers 4 needs besides the entries below, or in their place.
NEEDED_BY_4: dict[str, dict[str, Any]] = {
    **{
        family: {
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "backbone_config": {"model_type": "resnet"},
        }
        for family in ("conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer")
    },
    "apertus": {"hidden_act": "silu"},  # its own needs numbers
    "edgetam": {"vision_config": {"backbone_config": _REPVIT}},
    "edgetam_vision_model": {"backbone_config": _REPVIT},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 16},
    "idefics3": {"text_config": {"model_type": "llama", "pad_token_id": 2}, "pad_token_id": 2},
    "mllama": {"text_config": {"rope_scaling": {"rope_type": "default"}, "pad_token_id": 4}},
    **{
        family: {
            "text_encoder": {"model_type": "t5"},
            "audio_encoder": {"model_type": "encodec"},
            "decoder": {"model_type": f"{family}_decoder"},
        }
        for family in ("musicgen", "musicgen_melody")
    },
    "phi4_multimodal": {"vision_config": {}, "audio_config": {}},
    "qwen3_omni_moe": {
        "thinker_config": {"text_config": {"rope_scaling": _MROPE}},
        "talker_config": {
            "text_config": {"rope_scaling": _MROPE, "shared_expert_intermediate_size": 768},
            "spatial_merge_size": 2,
            "speaker_id": {},
            "accept_hidden_layer": 18,
        },
    },
    "qwen3_vl": {"text_config": {"rope_scaling": _MROPE}},
    "qwen3_vl_moe": {"text_config": {"rope_scaling": _MROPE}},
    "qwen3_vl_moe_text": {"rope_scaling": _MROPE},
    "qwen3_vl_text": {"rope_scaling": _MROPE},
    "smolvlm": {"text_config": {"model_type": "llama", "pad_token_id": 2}, "pad_token_id": 2},
    "superglue": {"keypoint_encoder_sizes": [32, 64, 128, 256], "gnn_layers_types": ["self", "cross"] * 9},
    "tvp": {"backbone_config": {"model_type": "resnet"}, "type_vocab_size": 2},
}

#: Entries that count experts. transformers 4 has a module for each, all alike: so many are enough.
EXPERTS, ENOUGH = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 16

#: Families that people give other text models than their own, and those that are tried.
OPEN = {
    "audioflamingo3", "blip-2", "granite_speech", "idefics2", "idefics3", "internvl", "llava", "llava_next",
    "llava_next_video", "llava_onevision", "mistral3", "smolvlm", "vipllava", "voxtral",
}  # fmt: skip
TEXT_MODELS = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3", "opt", "t5", "gpt2", "stablelm"]

#: Entries that give many families other modules, wherever their configurations have them with another value.
TRIED: dict[str, Any] = {
    "add_cross_attention": True, "feed_forward_proj": "gated-gelu", "first_k_dense_replace": 1, "mlp_only_layers": [1],
    "q_lora_rank": None, "type_vocab_size": 2,
}  # fmt: skip

_SIZES = {"long": 7, "mid": 5, "short": 3}
_LARGE_KERNELS = {
    "kernel_list": [3, 2, 2],
    "intraclass_block_config": {
        **{f"{which}_channel": [1, 1, 0] for which in ("reduce", "return")},
        **{f"vertical_long_to_small_conv_{r}ratio": [[k, 1], 1, [k // 2, 0]] for r, k in _SIZES.items()},
        **{f"horizontal_small_to_long_conv_{r}ratio": [[1, k], 1, [0, k // 2]] for r, k in _SIZES.items()},
        **{f"symmetric_conv_long_{r}ratio": [k, 1, k // 2] for r, k in _SIZES.items()},
    },
}

#: What a configuration can't be built, or used, without: entries that its defaults leave to the checkpoint.
NEEDED: dict[str, dict[str, Any]] = {
    "autoformer": {"prediction_length": 24},
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 16}},
    "chameleon": {"vocabulary_map": {"<image>": 4}},
    "cohere_compass": {
        "text_config": {
            "rope_parameters": {
                k: {"rope_type": "default", "rope_theta": 1e4} for k in ("full_attention", "sliding_attention")
            }
        }
    },
    "cohere_compass_text": {
        "rope_parameters": {
            k: {"rope_type": "default", "rope_theta": 1e4} for k in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense"] + ["sparse"] * 31}},
    "diffusion_gemma": {"text_config": {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 64}},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 2},
    **{
        family: {
            "use_timm_backbone": False,
            "backbone_config": {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]},
        }
        for family in ("conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer")
    },
    "emu3": {"vocabulary_map": {"<|extra_200|>": 4, "<image>": 5}},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "gemma4_assistant": {
        "text_config": {"model_type": "gemma4_text", "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    },
    "granite4_vision": {"deepstack_layer_map": [[1, 1]], "downsample_rate": "4/8"},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "hunyuan_vl": {"text_config": {"head_dim": 128}},
    "hunyuan_vl_text": {"head_dim": 128},
    "informer": {"prediction_length": 24},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "reformer": {"is_decoder": True},
    "moonshine_streaming": {"num_key_value_heads": 8},
    "perception_lm": {
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_core_large_patch14_336",
            "model_args": {"embed_dim": 1024, "img_size": [448, 448]},
        }
    },
    **dict.fromkeys(("pp_ocrv5_server_det", "pp_ocrv6_medium_det"), _LARGE_KERNELS),
    "qwen3_omni_moe": {
        "talker_config": {"text_config": {"shared_expert_intermediate_size": 768}, "spatial_merge_size": 2}
    },
    "qwen4_exp": {
        "text_config": {
            "indexer_n_heads": 4,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 256,
            "indexer_budget": 64,
            "indexer_compress_ratio": 4,
        }
    },
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 256,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "t5gemma2_encoder": {"text_config": {"dropout_rate": 0.0}},
    "time_series_transformer": {"prediction_length": 24},
    "vitmatte": {"fusion_hidden_sizes": [256, 128, 64, 32]},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
}


def model_types() -> list[str]:
    """Every family that the installed transformers has a configuration of."""
    from transformers import CONFIG_MAPPING

    return sorted(set(CONFIG_MAPPING.keys()))


def classes(family: str) -> dict[str, Any]:
    """Every model class of a family by name, the bare one first."""
    import transformers

    from tinylora_tools.ops.architecture.classes import classes_of

    return classes_of(family, transformers.CONFIG_MAPPING[family])


def configurations(family: str, name: str, inside: dict[str, Any] | None = None) -> Iterator[Any]:
    """The family's configuration for a class, in each of its shapes, the default first; with other inner ones."""
    import transformers

    config = transformers.CONFIG_MAPPING[family]
    needed = NEEDED.get(family, {})
    if transformers.__version__.startswith("4."):
        needed = NEEDED_BY_4.get(family, needed)
    first = config(**copy.deepcopy(needed))  # some configurations empty what they are given
    if transformers.__version__.startswith("4."):
        counts = {p: v for p, v in _entries(first.to_dict()) if p.rpartition(".")[2] in EXPERTS}
        inside = {**{p: ENOUGH for p, v in counts.items() if isinstance(v, int) and v > ENOUGH}, **(inside or {})}
    if inside:
        first = config.from_dict(_changed(first.to_dict(), inside))
    scaling = [{flag: not value} for flag, value in _entries(first.to_dict()) if flag.endswith("scale_embedding")]
    for changes in [{}, *VARIANTS.get(family, []), *scaling]:
        found = config.from_dict(_changed(first.to_dict(), changes)) if changes else first
        found.architectures = [name]
        yield found


def shapes(family: str, name: str, model_class: Any) -> list[Any]:
    """The configurations that count for a class: those above, and of those that are tried the ones that can be built
    and have other modules than the default."""
    from tinylora_tools.ops.architecture.build import build, kind_of

    def modules(config: Any) -> set[str]:
        return {n for n, m in build(model_class, config).named_modules() if kind_of(m)}

    configs = list(configurations(family, name))
    default = modules(configs[0])
    for path, value in _entries(configs[0].to_dict()):
        last = path.rpartition(".")[2]
        if last in TRIED and value != TRIED[last]:
            with suppress(Exception):
                config = type(configs[0]).from_dict(_changed(configs[0].to_dict(), {path: TRIED[last]}))
                config.architectures = [name]
                if modules(config) != default:
                    configs.append(config)
    return configs


def _changed(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner = settings
        for part in parents:
            inner = inner[part]
        inner[last] = value
    return settings


def _entries(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    from tinylora_tools.ops.architecture.scales import entries

    return list(entries(settings))


def collect_family(family: str, older: dict[str, Any] | None = None) -> dict[str, Any]:
    """All that the data file says of a family, as the installed transformers has it; under `failed` what couldn't be
    built, and why. `older` is what an older release says of its classes."""

    import transformers

    from tinylora_tools.ops.architecture.describe import describe
    from tinylora_tools.ops.architecture.tie_states import text_path

    prepare()
    found: dict[str, Any] = {"classes": {}, "failed": {}}
    for name, model_class in classes(family).items():
        try:
            configs = shapes(family, name, model_class)
            found["classes"][name] = describe(model_class, configs, (older or {}).get(name))
        except Exception as error:
            found["failed"][name] = f"{type(error).__name__}: {error}"[:300]
            continue
        found.setdefault("bare", name)
        if model_class.config_class.model_type != family:
            found["like"] = model_class.config_class.model_type
        found.setdefault("text", text_path(configs[0]))
        found.setdefault("inner", {p: [v] for p, v in _entries(configs[0].to_dict()) if p.endswith(".model_type")})
    if family in OPEN and found["classes"] and not transformers.__version__.startswith("4."):
        _add_text_models(family, found)
    return found


def _add_text_models(family: str, found: dict[str, Any]) -> None:
    """Other text models that a family's class may be built with, and has the same structure and ties."""
    import transformers

    path = f"{found['text']}.model_type"
    name = next((n for n in found["classes"] if n.endswith("ForConditionalGeneration")), found["bare"])
    plain = _structure(getattr(transformers, name), next(configurations(family, name)))
    for text in TEXT_MODELS:
        if text not in found["inner"].get(path, [text]):
            with suppress(Exception):  # one that doesn't fit in there
                config = next(configurations(family, name, {found["text"]: {"model_type": text}}))
                fits = dict(_entries(config.to_dict()))[path] == text
                if fits and _structure(getattr(transformers, name), config) == plain:
                    found["inner"][path].append(text)


def _structure(model_class: Any, config: Any) -> tuple[Any, ...]:
    from tinylora_tools.ops.architecture.describe import structure
    from tinylora_tools.ops.architecture.tie_states import tied_unasked

    return structure(model_class, [config]), tied_unasked(model_class, config)


def prepare() -> None:
    """Quiet, one thread, and no initial values, which take time and can fail for shapes that nobody trains."""
    import torch
    import transformers

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for layer in (torch.nn.Linear, torch.nn.Embedding):
        layer.reset_parameters = lambda self: None  # type: ignore[method-assign]
    transformers.PreTrainedModel.initialize_weights = lambda self: None


def collect(output: Path, families: list[str], older: Path | None) -> None:
    """Write what the installed transformers says; `older` is what an older one wrote."""
    import transformers

    known = json.loads(older.read_text())["families"] if older else {}

    families = families or model_types()
    olders = [known.get(family, {}).get("classes") for family in families]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(families, pool.map(collect_family, families, olders, chunksize=4), strict=True))
    output.write_text(json.dumps({"transformers": transformers.__version__, "families": found}, indent=1))
    built = [family for family, data in found.items() if data["classes"]]
    print(f"{len(built)} families, {sum(len(d['classes']) for d in found.values())} classes")
    for family, data in found.items():
        for name, why in data["failed"].items():
            print(f"{family} {name}: {why}", file=sys.stderr)


def merge(inputs: list[Path]) -> None:
    """Write the data file from what several releases said, newest first: a family a line. A class that an older release
    describes as the one before it does is "same" there."""
    collected = [json.loads(path.read_text()) for path in inputs]
    lines = []
    for family in sorted({name for one in collected for name, data in one["families"].items() if data["classes"]}):
        releases: dict[str, Any] = {}
        before: dict[str, Any] = {}
        for one in collected:
            data = one["families"].get(family)
            if not data or not data["classes"]:
                continue
            described = data["classes"]
            releases[one["transformers"]] = {
                "bare": data["bare"],
                **({"text": data["text"]} if data["text"] else {}),
                **({"inner": data["inner"]} if data["inner"] else {}),
                "classes": {name: "same" if before.get(name) == its else its for name, its in described.items()},
            }
            before = before | described
        like = next((data["like"] for one in collected if "like" in (data := one["families"].get(family, {}))), None)
        head = {"family": family, **({"like": like} if like else {})}
        lines.append(json.dumps({**head, "releases": releases}, separators=(",", ":")))
    OUTPUT.parent.mkdir(exist_ok=True)
    head = json.dumps({"transformers": [one["transformers"] for one in collected]})
    OUTPUT.write_text("\n".join([head, *lines]) + "\n")
    print(f"{OUTPUT.name}: {len(lines)} families, {OUTPUT.stat().st_size} bytes")


def show(family: str) -> None:
    """Print what the data file says of a family."""
    for line in OUTPUT.read_text().splitlines()[1:]:
        data = json.loads(line)
        if data["family"] == family:
            print(json.dumps(data, indent=1))
            return
    raise SystemExit(f"{family}: not in the data")


def page() -> str:
    """docs/families.md: what the data know of each family, and what each command made of it, built small."""
    from tinylora_tools.bases.architectures import families
    from tinylora_tools.bases.architectures.layout import Layout

    results = ROOT / "benchmarks" / "families.json"
    measured = json.loads(results.read_text())["families"]
    rows = []
    for data in families.all_families():
        releases = data["releases"]
        described = [one for release in releases.values() for one in release["classes"].values()]
        ties = [tie["tied"] for one in described for tie in one.get("ties", ())]
        tied = "no" if not ties else "always" if all("F" not in tie for tie in ties) else "by config.json"
        more = {p for one in described for p, k in Layout(one.get("modules", "")).letters.items() if k.islower()}
        scaled = "yes" if any(one.get("scales") for one in described) else ""
        fused = "yes" if any(one.get("fused") for one in described) else ""
        outcomes = measured.get(data["family"], {})
        with_p, without = outcomes.get("with P", {}), outcomes.get("without P", {})
        said = ", ".join(
            [f"{command}: {what}" for command, what in with_p.items() if what != "right"]
            + [f"{c} without P: {what}" for c, what in without.items() if what not in ("right", with_p[c])]
        )
        beside = "" if not outcomes else said or "all right"
        cells = [data["family"], len(releases[next(iter(releases))]["classes"]), " and ".join(releases), tied, scaled]
        rows.append([*cells, len(more) or "", fused, beside])
    head = ["Family", "Classes", "transformers", "Ties", "Scaled", "Doing more", "Fused", "Beside PEFT"]
    lines = [" | ".join(map(str, row)) for row in (head, ["---"] * len(head), *rows)]
    with_p = [one["with P"] for one in measured.values()]
    counts = {command: sum(one[command] == "right" for one in with_p) for command in with_p[0]}
    right = ", ".join(f"{command} {count}" for command, count in counts.items())
    return PAGE.format(families=len(rows), measured=len(measured), right=right) + "".join(f"| {x} |\n" for x in lines)


PAGE = """# Families

The {families} model families that the [data](architectures.md) know; made by `scripts/make_architectures.py page`.

- *Classes*: of the newest release that has the family.
- *Ties*: whether some class holds two parameters as one tensor.
- *Scaled*: whether an embedding multiplies what it looks up.
- *Doing more*: how many kinds of modules no weight can have the update of.
- *Fused*: whether some parameters, experts mostly, aren't stored as they are held.
- *Beside PEFT*: what came of merge, convert lora, verify-base, verify-seed, init and count for an adapter of all its
  layers, built small, where that was run (`benchmarks/families.py`, {measured} families). With P stored, right were:
  {right}.
  *refused* is an error that says what can't be, or isn't known; *warned* a warning of what PEFT does.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("collect")
    one.add_argument("output", type=Path)
    one.add_argument("families", nargs="*")
    one.add_argument("--older", type=Path, help="what `collect` wrote in an older release")
    one.set_defaults(run=lambda options: collect(options.output, options.families, options.older))
    two = commands.add_parser("merge")
    two.add_argument("inputs", type=Path, nargs="+")
    two.set_defaults(run=lambda options: merge(options.inputs))
    three = commands.add_parser("show")
    three.add_argument("family")
    three.set_defaults(run=lambda options: show(options.family))
    four = commands.add_parser("page")
    four.set_defaults(run=lambda options: (ROOT / "docs" / "families.md").write_text(page()))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
