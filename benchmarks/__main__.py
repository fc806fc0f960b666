"""What README promises, measured beside what else there is, in turns.

    python -m benchmarks [NAME...] [--runs 5] [--sizes 0.5b,1.5b] [--directory DIR] [--record]

It builds its own checkpoints, in a temporary directory or in DIR, where they stay, and prints a row each; --record
writes them to results.json and into RESULTS.md. A test compares README's figures with what is recorded. The scripts
beside this look closer at one thing each: more sizes, more spectra, memory, other machines.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import models
from side_by_side import Row, Work, command, machine, record, row, table, tinylora

PEFT_LOADED = """
import sys, torch
from peft import TinyLoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
get_peft_model(model, TinyLoraConfig(r=2, u=13, weight_tying=1.0, target_modules="all-linear"))
"""


SHAPES_READ = """
import sys, pathlib
from safetensors import safe_open
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    with safe_open(path, "numpy") as file:
        {name: file.get_slice(name).get_shape() for name in file.keys()}
"""
HUB_READ = """
import sys
from huggingface_hub import get_local_safetensors_metadata
{name: one.shape for file in get_local_safetensors_metadata(sys.argv[1]).files_metadata.values()
 for name, one in file.tensors.items()}
"""


def merges(directory: Path, runs: int, sizes: Sequence[str]) -> Iterator[Row]:
    """Beside `cp` and `sync` of the same files; --runs of each."""
    for size in sizes:
        base, adapter = models.apart(models.make, directory, size)
        merged, copy = directory / "merged", directory / "copy"
        yield row(
            f"merge-{size}",
            f"merge, {size}, bfloat16, all-linear",
            tinylora("merge", adapter, "--base", base, "-o", merged, "-q", output=merged),
            "`cp` and `sync`",
            command("sh", "-c", f"cp -r '{base}' '{copy}' && sync", output=copy),
            runs=runs,
            limit="the sums: memory, and rounding to bfloat16",
        )


def making(directory: Path, runs: int, sizes: Sequence[str]) -> Iterator[Row]:
    """`init` beside PEFT, which needs the model in memory: its start, its loading, its decompositions."""
    base, _ = models.apart(models.make, directory, sizes[0])
    new = directory / "new"
    yield row(
        f"init-{sizes[0]}",
        f"init, {sizes[0]}, all-linear, r=2, u=13",
        tinylora("init", base, "-o", new, "-r", 2, "-u", 13, "--weight-tying", 1, *ALL, "-q", output=new),
        "PEFT's get_peft_model, with its process",
        command(sys.executable, "-c", PEFT_LOADED, base),
        runs=1 if runs < 5 else 2,
        limit="importing torch, and products of W with 4 to 16 columns",
    )


def triplets(directory: Path, runs: int, sizes: Sequence[str]) -> Iterator[Row]:
    """A weight of the 7B's, in memory."""
    import factors
    import torch

    from tinylora_tools.cli.shell.process import keep_freed_memory

    keep_freed_memory()
    for kind in ("separated", "gaussian"):
        W = factors.SPECTRA[kind](3584, 3584, torch.Generator().manual_seed(0))
        yield row(
            f"factor-{kind}",
            f"two triplets of 3584 x 3584, {kind}",
            Work(lambda W=W: factors.ours(W, 2)),
            "torch.linalg.svd",
            Work(lambda W=W: factors.full(W, 2)),
            runs=min(runs, 3),
            limit="products of W with 4 to 16 columns",
        )


def restoring(directory: Path, runs: int, sizes: Sequence[str]) -> Iterator[Row]:
    """A packed adapter that was restored before, beside one that wasn't."""
    base, adapter = models.apart(models.make, directory, sizes[0])
    packed, back = directory / "packed.safetensors", directory / "back"
    os.environ["TINYLORA_CACHE_DIR"] = str(directory / "kept")
    tinylora("convert", "packed", adapter, "-o", packed, "--base", base, "-f", "-q").run()
    words = ("convert", "peft", packed, "-o", back, "--base", base, "-q")
    yield row(
        "packed-again",
        f"a packed adapter of the {sizes[0]} restored again",
        tinylora(*words, output=back),
        "the first time",
        tinylora(*words, "--no-cache", output=back),
        runs=min(runs, 3),
        limit="Python's start",
    )


def projections(directory: Path, runs: int, sizes: Sequence[str]) -> Iterator[Row]:
    import projection

    for u, r in ((13, 3), (64, 2)):
        found = projection.best_times(10_000, u, r, runs)
        ours, theirs = found["torch-cpu-avx2"], found["torch"]
        yield Row(
            f"project-{u}x{r}", f"P of 10,000 modules, u={u}, r={r}", ours, "torch's own loop", theirs, ours / theirs,
            "seeding, and the logarithm and the sines in NumPy", date.today().isoformat(),
        )  # fmt: skip


def starts(directory: Path, runs: int, sizes: Sequence[str]) -> Iterator[Row]:
    """Every command's help beside that of huggingface_hub's own program."""
    from tinylora_tools.cli.main import ABOUT, COMMANDS

    peer = command(Path(sys.executable).with_name("hf"), "version")
    for name in (*COMMANDS, *ABOUT):
        yield row(
            f"start-{name}",
            f"tinylora {name} --help",
            tinylora(name, "--help"),
            "hf version",
            peer,
            runs=runs,
            limit="importing click",
        )


def inspecting(directory: Path, runs: int, sizes: Sequence[str]) -> Iterator[Row]:
    """Headers of many shards beside safetensors' own reader, in a process of its own."""
    import inspect_sources

    made = directory / "shards"
    if not made.exists():
        made.mkdir()
        inspect_sources.make_checkpoint(made, 200, 50_000)
    shard = min(made.glob("*.safetensors"))
    peers = {
        "shards": ("safe_open and its shapes", command(sys.executable, "-c", SHAPES_READ, made)),
        "hub": ("huggingface_hub's parser", command(sys.executable, "-c", HUB_READ, made)),
        "modelinfo": ("modelinfo-cli, the same", command(sys.executable, "-m", "modelinfo", shard)),
    }
    for name, (peer, work) in peers.items():
        if name == "modelinfo" and find_spec("modelinfo") is None:
            print("modelinfo-cli isn't installed, and is left out")
            continue
        yield row(
            f"inspect-{name}",
            "inspect, 200 shards, 50,000 tensors",
            tinylora("inspect", made, "--json"),
            peer,
            work,
            runs=runs,
            limit="parsing JSON, and what the families' data say of names",
        )


def whole(directory: Path, runs: int, sizes: Sequence[str]) -> Iterator[Row]:
    """What goes over every targeted weight of a checkpoint, from a warm cache, beside reading the files."""
    os.environ["TINYLORA_CACHE_DIR"] = ""
    out = directory / "whole"
    for size in sizes:
        base, adapter = models.apart(models.make, directory, size)
        packed = directory / f"{size}-packed.safetensors"
        reading = command("sh", "-c", f"cat '{base}'/*.safetensors > /dev/null")
        words: dict[str, tuple[object, ...]] = {
            "factor": ("factor", base, "-o", out / "factors.safetensors", *ALL),
            "init": ("init", base, "-o", out / "new", "-r", 2, "-u", 13, "--weight-tying", 1, *ALL),
            "verify-base": ("verify-base", adapter, "--base", base),
            "pack": ("convert", "packed", adapter, "-o", out / "packed.safetensors", "--base", base),
            "restore": ("convert", "peft", packed, "-o", out / "back", "--base", base),
        }
        for name, arguments in words.items():
            if name == "restore":
                tinylora("convert", "packed", adapter, "-o", packed, "--base", base, "-f", "-q").run()
            work = tinylora(*arguments, "-q", output=out)
            yield row(
                f"{name}-{size}-whole",
                f"{name}, all of the {size}, all-linear, r=2",
                Work(work.run, lambda work=work: (work.before(), out.mkdir(exist_ok=True))),
                "reading it (`cat`)",
                reading,
                runs=min(runs, 3 if size != "7b" else 1),
                limit=LIMITS[name],
            )


def scales(directory: Path, runs: int, sizes: Sequence[str]) -> Iterator[Row]:
    """Cost against size, over four sizes: drawn in cost.svg when it is recorded."""
    import scaling

    yield from scaling.rows(directory, runs)


#: By default init and factor take what PEFT would, q_proj and v_proj of these.
ALL = ("--target-modules", "all-linear")

#: What takes the time.
LIMITS = {
    "factor": "as init, and sha256 of what was read",
    "init": "importing torch, and products of W with 4 to 16 columns: one or two in bfloat16, three or four in float32",
    "verify-base": "as init, from a nearer start, and one product with the factors that are there",
    "pack": "as init, refined by two products in float64 and four or five narrow ones",
    "restore": "as init, refined by two products in float64 and four or five narrow ones",
}

#: By the names that the command line takes.
SUITE: dict[str, Callable[[Path, int, Sequence[str]], Iterator[Row]]] = {
    "merge": merges, "init": making, "factor": triplets, "packed": restoring, "project": projections,
    "start": starts, "inspect": inspecting, "whole": whole, "scale": scales,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUITE)}; all by default")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--sizes", default="0.5b,1.5b", help="tiny is nobody's, and shows in seconds that all runs")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    unknown = set(options.names) - SUITE.keys()
    if unknown:
        parser.error(f"no benchmark is named {min(unknown)}: {', '.join(SUITE)}")
    with tempfile.TemporaryDirectory(prefix="tinylora-benchmarks-") as temporary:
        directory = options.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        said, rows = machine(directory), list[Row]()
        print(f"{said}\n")
        for name in options.names or SUITE:
            found = list(SUITE[name](directory, options.runs, options.sizes.split(",")))
            print(table(found), end="\n\n", flush=True)
            rows += found
    if options.record:
        record(rows, said)


if __name__ == "__main__":
    main()
