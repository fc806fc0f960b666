"""Make tinylora_tools/data/architectures.json from transformers: module order, types, stored names and ties.

Run the first command once in an environment of each generation of transformers, then the second:

    python scripts/make_architectures.py collect transformers-5.json
    python scripts/make_architectures.py merge transformers-5.json transformers-4.json

Every class of every family below is built in several shapes with a few small layers. Modules are listed as
`named_modules()` meets them, with numbers generalised to `*`; the orders of all shapes and classes are merged, and a
conflict between them is an error. Stored names are found by their values: a model with distinct random parameters is
saved by save_pretrained and its tensors are looked up in the file.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import tempfile
import warnings
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent.parent / "tinylora_tools" / "data" / "architectures.json"

#: Small sizes, for whichever of these attributes a configuration has.
SMALL = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embedding_size": 32, "intermediate_size": 40,
    "ffn_hidden_size": 40, "d_ff": 40, "d_kv": 8, "hidden_dim": 40, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
    "ffn_dim": 40, "n_inner": 40, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
    "num_hidden_layers": 3, "num_layers": 3, "n_layer": 3, "n_layers": 3, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "rotary_dim": 4, "vocab_size": 96, "max_position_embeddings": 32, "n_positions": 32, "max_source_positions": 32,
    "max_target_positions": 32, "image_size": 32, "patch_size": 16, "num_mel_bins": 8, "word_embed_proj_dim": 32,
    "num_local_experts": 3, "num_experts": 3, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
    "topk_group": 1, "n_shared_experts": 1, "q_lora_rank": 12, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1, "sliding_window": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0, "type_vocab_size": 2, "pooler_hidden_size": 32,
    "classifier_proj_size": 16, "layer_types": None,
}  # fmt: skip

#: Shapes of a family that have other modules than its defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "bart": [{"scale_embedding": True}],
    "bloom": [{"slow_but_exact": True}],
    "cohere": [{"use_qk_norm": True}],
    "deberta-v2": [
        {"position_buckets": 8, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": False, "conv_kernel_size": 3},
        {"legacy": False},
        {"embedding_size": 16},
    ],
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
    "smollm3": [{"no_rope_layers": [1, 1, 0]}],
    "stablelm": [{"qk_layernorm": True}, {"use_parallel_residual": True}],
    "t5": [{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}],
}

FAMILIES = [
    "bart", "bert", "bloom", "cohere", "cohere2", "deberta-v2", "deepseek_v3", "distilbert", "electra", "falcon",
    "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gptj", "granite", "llama", "mistral", "mixtral", "olmo",
    "olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "roberta", "smollm3", "stablelm", "t5",
    "vit", "whisper", "xlm-roberta",
]  # fmt: skip


def generalised(name: str) -> str:
    """A module's or parameter's name with numbers replaced by `*`."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def configurations(family: str) -> Iterator[Any]:
    """The family's configuration in small sizes, in each of its shapes."""
    from transformers import AutoConfig

    for changes in [{}, *VARIANTS.get(family, [])]:
        config = AutoConfig.for_model(family)
        small = {name: value for name, value in SMALL.items() if value is not None and _has(config, name)}
        if _has(config, "layer_types"):
            small["layer_types"] = None
        if family == "falcon":
            small |= {"ffn_hidden_size": 40}
        if family == "phi3":
            small |= {"rope_scaling": None, "partial_rotary_factor": 1.0}
        yield AutoConfig.for_model(family, **{**small, **changes})


def _has(config: Any, name: str) -> bool:
    """Whether a configuration has an attribute that can be set."""
    derived = inspect.getattr_static(type(config), name, None)
    if isinstance(derived, property) and derived.fset is None:
        return False
    return hasattr(config, name) or name in inspect.signature(type(config).__init__).parameters


def classes(family: str) -> tuple[list[str], str]:
    """Every model class of a family by name, and the bare one."""
    from transformers.models.auto import modeling_auto as auto

    bare = auto.MODEL_MAPPING_NAMES[family]
    bare = bare if isinstance(bare, str) else bare[0]
    found = {bare}
    for mapping, names in vars(auto).items():
        if mapping.endswith("_MAPPING_NAMES") and family in names:
            name = names[family]
            found.update([name] if isinstance(name, str) else name)
    import transformers

    known = {name: getattr(transformers, name, None) for name in found}
    config = transformers.CONFIG_MAPPING[family]
    models = [n for n, c in known.items() if isinstance(c, type) and getattr(c, "config_class", None) is config]
    return sorted(models), bare


def merge_orders(orders: list[list[str]], what: str) -> list[str]:
    """Lists of siblings merged into one that agrees with each; an error where they contradict each other."""
    before: dict[str, set[str]] = {}
    for order in orders:
        for i, name in enumerate(order):
            before.setdefault(name, set()).update(order[:i])
    try:
        sorter = TopologicalSorter(before)
        sorter.prepare()
        merged: list[str] = []
        first_seen = {name: i for i, name in enumerate(dict.fromkeys(name for order in orders for name in order))}
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=lambda name: first_seen[name])
            merged += ready
            sorter.done(*ready)
    except CycleError as error:
        raise SystemExit(f"{what}: the order of siblings differs between shapes or classes: {error.args[1]}") from None
    return merged


def leaves_in_order(lists: list[dict[str, str]], family: str) -> list[str]:
    """Leaf patterns of several models merged into one depth-first order: `kind pattern` for each."""
    kinds: dict[str, str] = {}
    siblings: dict[str, list[list[str]]] = {}
    for leaves in lists:
        children: dict[str, dict[str, None]] = {}
        for pattern, kind in leaves.items():
            if kinds.setdefault(pattern, kind) != kind:
                raise SystemExit(f"{family}: {pattern} is {kind} in one class and {kinds[pattern]} in another")
            parts = pattern.split(".")
            for depth, part in enumerate(parts):
                children.setdefault(".".join(parts[:depth]), {})[part] = None
        for path, names in children.items():
            siblings.setdefault(path, []).append(list(names))
    merged = {path: merge_orders(orders, f"{family} {path}") for path, orders in siblings.items()}

    def walk(path: str) -> Iterator[str]:
        if path in kinds:
            yield f"{kinds[path]} {path}"
        for name in merged.get(path, []):
            yield from walk(f"{path}.{name}" if path else name)

    return list(walk(""))


def collect_family(family: str) -> dict[str, Any]:
    """All that the data file says of a family, as the installed transformers has it."""
    import torch
    import transformers

    names, bare = classes(family)
    for name in names:
        leave_uninitialised(getattr(transformers, name))
    lists, stored, fused, ties = [], {}, set(), {}
    scaled: set[str] = set()
    scaled_if: set[str] = set()
    patterns: dict[str, set[str]] = {name: set() for name in names}
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    prefix, default = "", None
    for config in configurations(family):
        for name in names:
            model_class = getattr(transformers, name)
            config.architectures = [name]
            with torch.device("meta"):
                model = model_class(config)
            prefix = model_class.base_model_prefix or prefix
            lists.append({generalised(n): kind for n, m in model.named_modules() if (kind := kind_of(m))})
            patterns[name] |= lists[-1].keys()
            for found, module in ((inputs, input_embeddings(model)), (outputs, model.get_output_embeddings())):
                if module is not None and kind_of(module):
                    found[name] = next(n for n, m in model.named_modules() if m is module)
            scaling = scaled_if if getattr(config, "scale_embedding", False) else scaled
            scaling |= {generalised(n) for n, m in model.named_modules() if kind_of(m) == "E" and is_scaled(m)}
    first = next(configurations(family))
    default = bool(getattr(type(first)(), "tie_word_embeddings", False))
    for config in configurations(family):
        for name in names:
            model_class = getattr(transformers, name)
            config.architectures = [name]
            config.tie_word_embeddings = False
            found, lost = stored_names(model_class, config)
            for parameter, key in found.items():
                if stored.setdefault(parameter, key) != key:
                    raise SystemExit(f"{family}: {parameter} is stored as {key} and as {stored[parameter]}")
            fused |= lost
            config.tie_word_embeddings = True
            groups = tied_groups(model_class, config)
            if groups and name not in ties:
                ties[name] = groups
    leaves = leaves_in_order(lists, family)
    return {
        "bare": bare,
        "classes": names,
        "prefix": prefix,
        "tied_by_default": default,
        "leaves": leaves,
        "leaves_of": {
            name: as_ranges([i for i, leaf in enumerate(leaves) if leaf[2:] in patterns[name]]) for name in names
        },
        "inputs": inputs,
        "outputs": outputs,
        "stored": {p: k for p, k in sorted(stored.items()) if p != k},
        "fused": sorted(fused - stored.keys()),
        "scaled": sorted(scaled),
        "scaled_if": sorted(scaled_if - scaled),
        "ties": ties,
    }


def input_embeddings(model: Any) -> Any:
    """A model's input embedding; None where it has none."""
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def as_ranges(numbers: list[int]) -> str:
    """Ascending numbers as text: `0-7 12`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return " ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)


def kind_of(module: Any) -> str | None:
    """The letter of a module that TinyLoRA can target, subclasses included, as PEFT's isinstance checks do."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Embedding):
        return "E"
    return "L" if isinstance(module, nn.Linear) else "C" if isinstance(module, Conv1D) else None


def is_scaled(embedding: Any) -> bool:
    """Whether an embedding multiplies what it looks up by a number of its own, as Gemma 3's does: a buffer there (whose
    value a meta device doesn't have), a number that may be 1 in BART's."""
    scale = getattr(embedding, "scalar_embed_scale", getattr(embedding, "embed_scale", 1.0))
    return not isinstance(scale, float | int) or scale != 1.0


def leave_uninitialised(model_class: Any) -> None:
    """Keep a class from giving its weights their initial values: some fail for shapes that nobody trains, and none of
    them matters here."""
    for base in model_class.__mro__:
        if "_init_weights" in vars(base):
            base._init_weights = lambda *_: None


def stored_names(model_class: Any, config: Any) -> tuple[dict[str, str], set[str]]:
    """Parameter pattern to stored pattern, and the parameters that no single stored tensor holds."""
    model = randomised(model_class, config)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        by_value = {value.numpy().tobytes(): name for name, value in loaded(Path(directory)).items()}
    found, lost = {}, set()
    for name, parameter in model.named_parameters():  # tied ones come once, under their first name
        key = by_value.get(parameter.detach().numpy().tobytes())
        if key is None:
            lost.add(generalised(name))
        else:
            found[generalised(name)] = generalised(key)
    return found, lost


def tied_groups(model_class: Any, config: Any) -> list[dict[str, Any]]:
    """Groups of parameters that are one tensor, the name it is stored by, and whether configuration can untie it."""
    model = randomised(model_class, config)
    by_place: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_place.setdefault(parameter.data_ptr(), []).append(name)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        by_value = {value.numpy().tobytes(): name for name, value in loaded(Path(directory)).items()}
    groups = []
    for members in by_place.values():
        if len(members) > 1:
            value = dict(model.named_parameters(remove_duplicate=False))[members[0]].detach().numpy().tobytes()
            key = by_value[value]
            stored = next((m for m in members if m == key), members[0])
            groups.append({"members": members, "stored": stored, "optional": can_untie(model_class, config, members)})
    return groups


def can_untie(model_class: Any, config: Any, members: list[str]) -> bool:
    """Whether tie_word_embeddings=False keeps the members apart over saving and loading."""
    import copy

    import torch

    config = copy.deepcopy(config)
    config.tie_word_embeddings = False
    model = model_class(config)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for i, member in enumerate(members):
            parameters[member].fill_(i + 1.0)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        again = dict(model_class.from_pretrained(directory, config=config).named_parameters(remove_duplicate=False))
    return all(bool((again[member] == i + 1.0).all()) for i, member in enumerate(members))


def randomised(model_class: Any, config: Any) -> Any:
    """A model whose parameters all hold distinct values, ties kept."""
    import torch

    torch.manual_seed(0)
    model = model_class(config)
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
    return model


def loaded(directory: Path) -> dict[str, Any]:
    """The tensors that save_pretrained wrote."""
    from safetensors.torch import load_file

    return {name: value for file in directory.glob("*.safetensors") for name, value in load_file(file).items()}


def collect(output: Path) -> None:
    """Write what the installed transformers says."""
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    families = {}
    for family in FAMILIES:
        try:
            families[family] = collect_family(family)
        except KeyError as error:
            print(f"{family}: not in transformers {transformers.__version__} ({error})")
    output.write_text(json.dumps({"transformers": transformers.__version__, "families": families}, indent=1))
    print(f"{len(families)} families, {sum(len(f['classes']) for f in families.values())} classes")


def merge(inputs: list[Path]) -> None:
    """Write the data file from what several releases said, newest first."""
    collected = [json.loads(path.read_text()) for path in inputs]
    releases = [generation["transformers"] for generation in collected]
    families: dict[str, Any] = {}
    for family in sorted(collected[0]["families"]):
        of_release = {g["transformers"]: g["families"][family] for g in collected if family in g["families"]}
        newest = next(iter(of_release.values()))
        families[family] = {
            **{key: newest[key] for key in ("bare", "prefix", "tied_by_default")},
            "classes": sorted({name for data in of_release.values() for name in data["classes"]}),
            "ties": agreed_ties([data["ties"] for data in of_release.values()]),
            "generations": {
                release: {
                    key: data[key]
                    for key in (
                        "leaves",
                        "leaves_of",
                        "inputs",
                        "outputs",
                        "stored",
                        "fused",
                        "scaled",
                        "scaled_if",
                    )
                }
                for release, data in of_release.items()
            },
        }
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps({"transformers": releases, "families": families}, indent=1) + "\n")
    print(f"{OUTPUT.name}: {OUTPUT.stat().st_size} bytes")


def agreed_ties(of_release: list[dict[str, Any]]) -> dict[str, Any]:
    """The ties of each class; one can be undone only if every release keeps its members apart."""
    agreed: dict[str, list[Any]] = {}
    for ties in of_release:
        for name, groups in ties.items():
            for group in groups:
                known = next((g for g in agreed.get(name, []) if set(g["members"]) == set(group["members"])), None)
                if known is None:
                    agreed.setdefault(name, []).append(dict(group))
                else:
                    known["optional"] = known["optional"] and group["optional"]
    return agreed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("collect")
    one.add_argument("output", type=Path)
    one.set_defaults(run=lambda options: collect(options.output))
    two = commands.add_parser("merge")
    two.add_argument("inputs", type=Path, nargs="+")
    two.set_defaults(run=lambda options: merge(options.inputs))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
