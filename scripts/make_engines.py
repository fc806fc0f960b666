"""Make tinylora_tools/data/engines.json: what programs that serve models take, read from the source in their packages.

pip download --no-deps --only-binary :all: vllm==0.33.0 sglang==0.5.23 mlx-lm==0.32.2
pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36
python scripts/make_engines.py vllm-*.whl sglang-*.whl mlx_lm-*.whl llama_cpp_python-*.tar.gz

Nothing of them is run or installed. vLLM's wheel is the largest, 340 MB.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from python_source import Class, Source, assigned, called, first_value, functions, literal, uses

OUTPUT = Path(__file__).parent.parent / "tinylora_tools" / "data" / "engines.json"

#: What engines call the layer that looks tokens up.
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "embeddings")

#: What llama.cpp loads the head from.
_OWN_HEAD, _EMBEDDING_AS_HEAD = "(LLM_TENSOR_OUTPUT,", r"\boutput\s*=\s*create_tensor\(tn\(LLM_TENSOR_TOKEN_EMBD\b"


def files_of(package: Path) -> Mapping[str, str]:
    """The text of a wheel's or a source archive's Python and C++ files; of an archive, without its own folder."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            names = [name for name in archive.namelist() if name.endswith((".py", "/METADATA"))]
            return {name: archive.read(name).decode() for name in names}
    found = {}
    with tarfile.open(package) as archive:
        for member in archive:
            wanted = member.isfile() and member.name.endswith((".py", ".cpp", "/PKG-INFO"))
            if wanted and (file := archive.extractfile(member)) is not None:
                found[member.name.partition("/")[2]] = file.read().decode(errors="replace")
    return found


def release_of(files: Mapping[str, str]) -> str:
    text = next(text for name, text in files.items() if name.endswith(("METADATA", "PKG-INFO")))
    return re.findall(r"^Version: (.*)$", text, re.MULTILINE)[0]


def vllm(files: Mapping[str, str]) -> dict[str, Any]:
    """Its classes: what LoRA each takes, and whether its head is always the embedding."""
    source = Source(files)
    registry = source.literals("vllm/model_executor/models/registry.py")["_TEXT_GENERATION_MODELS"]
    models = {}
    for name, (module, class_name) in registry.items():
        place = module if module.startswith("vllm.") else f"vllm.model_executor.models.{module}"
        found = source.find(place, class_name)
        if found is not None:
            models[name] = {"modules": _vllm_modules(found), "tied": always_tied(found)}
    config = source.tree("vllm/config/lora.py")
    helper = source.tree("vllm/lora/peft_helper.py")
    features = next(functions(helper, "_validate_features"))
    saved = next(literal(node.comparators[0]) for node in ast.walk(features) if isinstance(node, ast.Compare))
    names = next(functions(source.tree("vllm/lora/utils.py"), "is_base_embedding_weights"))
    return {
        "release": release_of(files),
        "ranks": [literal(part) for part in first_value(config, "MaxLoRARanks").slice.elts],
        "default_rank": literal(first_value(config, "max_lora_rank")),
        "rank_pattern": first_value(helper, "rank_pattern") is not None,
        "saved": sorted(saved),
        "passed_over": sorted(literal(first_value(names, "embedding_suffixes"))),
        "models": models,
    }


def _vllm_modules(found: Class) -> list[str] | None:
    """Names of layers that an adapter may have; None for a class without LoRA."""
    if not any(one.name == "SupportsLoRA" for one in found.family()):
        return None
    packed = (found.attribute("packed_modules_mapping") or {}) | found.entries("packed_modules_mapping")
    layers = [(name, kind) for name, kind in found.layers() if _is_linear(kind) or _is_experts(kind)]
    own = {"experts" if _is_experts(kind) else name for name, kind in layers}
    names = {part for name in own for part in packed.get(name, [name])}
    return sorted(names | set(found.attribute("embedding_modules") or {}))


def sglang(files: Mapping[str, str]) -> dict[str, Any]:
    """Its classes: names of layers, as it fuses them, that each has and whose sizes its LoRA knows."""
    source = Source(files)
    utils = source.tree("sglang/srt/lora/utils.py")
    general = set(_sizes(next(functions(utils, "get_default_hidden_dim"))))
    normalized = next(functions(utils, "get_normalized_target_modules"))
    models = {}
    for path in sorted(files):
        if not re.fullmatch(r"sglang/srt/models/\w+\.py", path):
            continue
        entry = first_value(source.tree(path), "EntryClass")
        for node in getattr(entry, "elts", [entry] if entry is not None else []):
            found = source.find(path.removesuffix(".py").replace("/", "."), ast.unparse(node))
            if found is not None:
                models[found.name] = {"modules": _sglang_modules(found, general), "tied": always_tied(found)}
    return {
        "release": release_of(files),
        "fused": literal(first_value(normalized, "params_mapping")),
        "models": dict(sorted(models.items())),
    }


def _sglang_modules(found: Class, general: set[str]) -> list[str]:
    own = [function for one in found.parts() for function in functions(one.node, "get_hidden_dim")]
    known = {size for function in own for size in _sizes(function)}
    if not own or any(uses(function, "get_default_hidden_dim", "super") for function in own):
        known |= general
    layers = {name for name, kind in found.layers() if _is_linear(kind) or kind == "ParallelLMHead"}
    layers |= {"embed_tokens" for name, kind in found.layers() if name == "embed_tokens" and "Embedding" in kind}
    experts = {"experts"} if any(_is_experts(kind) for _, kind in found.layers()) else set()
    return sorted(layers & known | experts)


def _sizes(function: ast.AST) -> Iterator[str]:
    """What a function compares its module's name with."""
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and ast.unparse(node.left) == "module_name":
            try:
                value = literal(node.comparators[0])
            except ValueError:  # a table that is named
                continue
            yield from [value] if isinstance(value, str) else value


def mlx(files: Mapping[str, str]) -> dict[str, Any]:
    """Its types of models, and whether their head is always the embedding."""
    source = Source(files)
    found = {
        match[1]: {"tied": ".as_linear(" in text and not re.search("lm_head|tie_|tying", _code(text))}
        for path, text in files.items()
        if (match := re.fullmatch(r"mlx_lm/models/(\w+)\.py", path)) and "\nclass ModelArgs" in text
    }
    renamed = literal(first_value(source.tree("mlx_lm/utils.py"), "MODEL_REMAPPING"))
    found |= {name: found[other] for name, other in renamed.items() if other in found}
    load = next(functions(source.tree("mlx_lm/tuner/utils.py"), "load_adapters"))
    leaves = literal(first_value(load, "adapter_leaves"))
    return {"release": release_of(files), "leaves": sorted(leaves), "models": dict(sorted(found.items()))}


def _code(text: str) -> str:
    """A file without comments."""
    return ast.unparse(ast.parse(text))


def llama_cpp(files: Mapping[str, str]) -> dict[str, Any]:
    """Classes that its converter knows, and whether the program reads their head from the embedding's weight."""
    here = {name.removeprefix("vendor/llama.cpp/"): text for name, text in files.items()}
    source = Source(here)
    constants = source.tree("gguf-py/gguf/constants.py")
    written = first_value(constants, "MODEL_ARCH_NAMES")
    names = {ast.unparse(key): literal(value) for key, value in zip(written.keys, written.values, strict=True)}
    models = {}
    for path in sorted(here):
        if not re.fullmatch(r"conversion/\w+\.py", path):
            continue
        for found in source.classes(path.removesuffix(".py").replace("/", ".")):
            architecture = found.expression("model_arch")
            name = names.get((architecture or "").removeprefix("gguf."))
            code = here.get(f"src/models/{name}.cpp")
            registered = [one for node in found.node.decorator_list for one in _registered(node)]
            if code is not None and name != "clip":
                tied = _OWN_HEAD not in code and re.search(_EMBEDDING_AS_HEAD, code) is not None
                models |= {one: {"architecture": name, "tied": tied} for one in registered}
    return {"release": release_of(files), "models": dict(sorted(models.items()))}


def _registered(decorator: ast.expr) -> Iterator[str]:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "ModelBase.register":
        yield from (literal(part) for part in decorator.args)


def always_tied(found: Class) -> bool:
    """Whether a class multiplies with its embedding whatever the configuration says: it makes no head of its own, and
    passes the embedding to what computes logits, or keeps it as its head."""
    heads = [value for one in found.family() for name, value in assigned(one.node) if name == "lm_head"]
    if any(isinstance(value, ast.Call) for value in heads):
        return False
    passed = [
        argument
        for one in found.family()
        for call in called(one.node)
        if ast.unparse(call.func) == "self.logits_processor"
        for argument in call.args
    ]
    return any(ast.unparse(value).rpartition(".")[2] in _EMBEDDINGS for value in [*heads, *passed])


def _is_linear(kind: str) -> bool:
    return kind.endswith("Linear")


def _is_experts(kind: str) -> bool:
    return "FusedMoE" in kind or kind == "get_moe_impl_class"


READERS: dict[str, tuple[str, Callable[[Mapping[str, str]], dict[str, Any]]]] = {
    "vllm": ("vllm", vllm),
    "sglang": ("sglang", sglang),
    "llama.cpp": ("llama_cpp_python", llama_cpp),
    "mlx": ("mlx_lm", mlx),
}


def table(packages: list[Path]) -> dict[str, Any]:
    """The engines' table, from a package of each."""
    found = {}
    for name, (package, read) in READERS.items():
        path = next(path for path in packages if path.name.startswith(f"{package}-"))
        found[name] = read(files_of(path))
    return found


def as_text(found: Mapping[str, Any]) -> str:
    """JSON with a model a line."""
    lines = []
    for engine, entries in found.items():
        own = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items() if key != "models"]
        models = ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in entries["models"].items())
        lines.append(f" {json.dumps(engine)}: {{\n" + ",\n".join([*own, f'  "models": {{\n{models}\n  }}']) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    OUTPUT.write_text(as_text(table([Path(name) for name in sys.argv[1:]])), "utf-8")
