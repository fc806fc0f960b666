"""Each thing that can be wrong with an adapter, and each that is worth knowing, in the words that people read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import edit_json
from edited_files import WEIGHTS, Tensors, edited_copy, without_projections
from fixture_data import FIXTURES, Fixture, fixture

from tinylora_tools.adapters import soundness
from tinylora_tools.adapters.load import Adapter
from tinylora_tools.bases.base import Base
from tinylora_tools.errors import MismatchError
from tinylora_tools.formats.peft.adapter import read_adapter

TINY = "peft020-tiny"  # r = u = 1, 14 modules with a vector each
Q_PROJ = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{Q_PROJ}.tinylora_"

EDITED = "Was the file or its adapter_config.json edited? Save the adapter again."
DIVERGED = "Use an earlier checkpoint of the adapter."


def opened(path: Path, name: str = TINY) -> Adapter:
    return Adapter(read_adapter(path), base=Base(fixture(name).base))


def put(**tensors: Any) -> Callable[[Tensors], object]:
    """Change tensors to what is given for a part of q_proj ("P"), or for a vector by its group ("v3")."""
    named = {KEY + k if len(k) == 1 else f"base_model.tinylora_v.{k[1:]}": a for k, a in tensors.items()}
    return lambda found: found.update(named)


def stray(tensors: Tensors) -> None:
    tensors["surprise"] = np.zeros(3, np.float32)


def no_modules(tensors: Tensors) -> None:
    for key in [key for key in tensors if ".tinylora_v." not in key]:
        del tensors[key]


def no_vectors(tensors: Tensors) -> None:
    for key in [key for key in tensors if ".tinylora_v." in key]:
        del tensors[key]


ones = np.ones((1,), np.float32)


@pytest.mark.parametrize(
    ("change", "config", "wanted", "hint"),
    [
        (stray, {}, "surprise: no PEFT release writes this key", EDITED),
        (no_vectors, {}, "no trained vector (tinylora_v) is in the file", soundness._LEFT_OUT),
        (
            put(v3=np.ones(2, np.float32)),
            {},
            "tinylora_v.3: shape (2,), expected (1,): adapter_config.json says u=1",
            EDITED,
        ),
        (
            put(P=np.ones((2, 1, 1), np.float32)),
            {},
            f"{Q_PROJ}: P is (2, 1, 1), but adapter_config.json says u=1",
            EDITED,
        ),
        (
            None,
            {"r": 3},
            f"{Q_PROJ}: A has rank 1, but adapter_config.json says r=3 and the weight is (32, 32): expected 3",
            EDITED,
        ),
        (put(v14=ones), {}, "15 trained vectors for 14 modules", EDITED),
        (put(v3=ones * np.nan), {}, "the trained vector of group 3 holds NaN or Inf: the training diverged", DIVERGED),
        (put(v0=-ones * np.inf), {}, "the trained vector of group 0 holds NaN or Inf: the training diverged", DIVERGED),
    ],
    ids=["key", "no vectors", "v", "P", "rank", "vectors", "nan", "inf"],
)
def test_each_problem_is_refused(
    change: Callable[[Tensors], object] | None, config: dict[str, object], wanted: str, hint: str, tmp_path: Path
) -> None:
    adapter = opened(edited_copy(TINY, tmp_path / "a", change, **config))
    found = soundness.problems(adapter)
    assert wanted in [problem.what for problem in found]
    assert {problem.hint for problem in found} == {hint}
    with pytest.raises(MismatchError) as caught:
        soundness.check(adapter)
    more = f" (and {len(found) - 1} more such)" if len(found) > 1 else ""
    assert str(caught.value) == f"{tmp_path / 'a' / WEIGHTS}: {found[0].what}{more}"
    assert caught.value.hint == hint


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_what_peft_wrote_is_sound(case: Fixture) -> None:
    soundness.check(opened(case.adapter, case.name))


def test_a_rank_that_is_cut_down_to_the_weight_is_no_problem(tmp_path: Path) -> None:
    """Classifiers have few rows: r=4 makes 3 there, and saying r=3 is what contradicts the rest."""
    name = "peft021-bias-own"
    adapter = edited_copy(name, tmp_path / "a")
    assert soundness.problems(opened(adapter, name)) == []
    edit_json(adapter / "adapter_config.json", r=3)
    assert [p.what.partition(":")[0] for p in soundness.problems(opened(adapter, name))] == sorted(
        row["name"] for row in fixture(name).modules if row["name"] != "classifier"
    )


def test_without_a_configuration_the_vectors_say_what_u_is(tmp_path: Path) -> None:
    adapter = edited_copy(TINY, tmp_path / "a", put(v3=np.ones(2, np.float32)))
    (adapter / "adapter_config.json").unlink()
    assert [p.what for p in soundness.problems(opened(adapter))] == [
        "tinylora_v.3: shape (2,), expected (1,): the vectors say u=1"
    ]
    assert opened(adapter).notes[0] == (
        "no adapter_config.json beside the file: its seed, weight tying and PEFT version aren't known"
    )


SHARED = (
    "all modules share one P, drawn by PEFT 0.19 from a seed that is lost: keep the stored P, and load the "
    "adapter with save_projection=True"
)
LOST = (
    "P isn't stored, and PEFT 0.19 drew it from a salted hash, which nobody can reproduce. Save it with "
    "save_projection=True from the process that trained it, or find its seed in what it was merged into: "
    f"tinylora_tools.verify_seed({fixture('peft019-seed-only').adapter}, against=..., base=...)"
)
DRAWN = (
    "P isn't stored: it is drawn from projection_seed, here as torch-cpu-avx2 draws it, with values that may "
    "differ between machines by rounding"
)
NOTES = {
    "peft019-experts": [SHARED],
    "peft019-scalar": [SHARED],
    "peft019-shared": [SHARED],
    "peft019-seed-only": [LOST],
    "peft019-two": [
        "the file also holds factors of default, another adapter that PEFT 0.19 saved along; they aren't part of this "
        "one"
    ],
    "peft020-bert-bias": [
        "trained with bias='all', but no bias was saved (PEFT 0.20.0 doesn't): what was learnt there is lost"
    ],
    "peft020-seed-only": [DRAWN],
    "peft021-13-numbers": [DRAWN],
    "peft021-t5-fp16": [DRAWN],
}


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_each_fixture_s_notes(case: Fixture) -> None:
    assert soundness.described(opened(case.adapter, case.name)) == NOTES.get(case.name, [])


def test_vectors_of_zeros_and_another_stream_are_noted(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        without_projections(tensors)
        for key in tensors:
            if ".tinylora_v." in key:
                tensors[key] = np.zeros_like(tensors[key])

    adapter = opened(edited_copy(TINY, tmp_path / "a", change)).on(stream="torch")
    assert adapter.notes == (
        DRAWN.replace("torch-cpu-avx2", "torch"),
        "every trained vector is zero: the adapter changes nothing",
    )
    one = opened(edited_copy(TINY, tmp_path / "b", lambda t: (change(t), put(v9=ones)(t))))
    assert "every trained vector is zero: the adapter changes nothing" not in one.notes


def test_described_is_problems_then_doubts_then_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For inspect, which refuses nothing."""
    monkeypatch.chdir(tmp_path)  # where the base that the configuration names isn't at hand
    adapter = Adapter(
        read_adapter(edited_copy("peft019-shared", tmp_path / "a", stray)), imported=("it was another's",)
    )
    found = soundness.described(adapter)
    assert found[0] == "surprise: no PEFT release writes this key"
    assert found[1].startswith("the order of the modules is in no file: ")
    assert ". Name the base model with base, so that its config.json tells" in found[1]
    assert found[2:] == ["it was another's", SHARED]


def test_notes_of_several_name_the_adapter() -> None:
    one, two = (opened(fixture(name).adapter, name) for name in ("peft019-shared", "peft019-two"))
    assert soundness.notes_of([one]) == [SHARED]
    assert soundness.notes_of([one, two]) == [f"adapter: {SHARED}", f"second: {NOTES['peft019-two'][0]}"]


def test_a_file_of_vectors_alone_has_no_modules(tmp_path: Path) -> None:
    found = [problem.what for problem in soundness.problems(opened(edited_copy(TINY, tmp_path / "a", no_modules)))]
    assert "no module has factors" in found
    assert any("the file lacks model.layers.0.self_attn.q_proj and 13 more" in what for what in found)


def test_releases_that_straddle_a_change_are_told_of(tmp_path: Path) -> None:
    """What P was drawn from, and whether biases were saved, follow their commit, which isn't known."""
    seeds = edited_copy("peft021-13-numbers", tmp_path / "a", peft_version="0.19.2.dev0@UNKNOWN")
    assert any(note.endswith("say seeding='index' or seeding='salted'") for note in opened(seeds).notes)
    assert DRAWN in opened(seeds).on(seeding="index").notes
    version = "0.20.1.dev0@UNKNOWN"
    biases = edited_copy("peft020-bert-bias", tmp_path / "b", peft_version=version)
    assert opened(biases, "peft020-bert-bias").notes == (
        f"trained with bias='all', and the file holds none: PEFT {version} saves biases from peft#3490 of 13 August "
        "2026 on, and its commit isn't known. If the model has any, what they learnt is lost",
    )
    saved = edited_copy("peft021-bias-all", tmp_path / "c", peft_version=version)
    assert opened(saved, "peft021-bias-all").notes == ()
