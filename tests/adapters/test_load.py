"""An open adapter's verbs against what PEFT's live modules held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recipe
from edited_files import edited_copy, without_projections
from fixture_data import FIXTURES, MERGEABLE, Fixture, fixture
from numpy.typing import NDArray

from tinylora_tools.adapters.load import Adapter
from tinylora_tools.bases.base import Base, open_base
from tinylora_tools.errors import MismatchError, UndeterminedError
from tinylora_tools.formats.peft.adapter import read_adapter
from tinylora_tools.formats.tensors import TensorFile, TensorInfo

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def opened(case: Fixture, **options: Any) -> Adapter:
    return Adapter(read_adapter(case.adapter), base=open_base(case.base), **options)


@pytest.mark.parametrize("case", MERGEABLE, ids=lambda case: case.name)
def test_verbs_give_what_the_live_modules_held(case: Fixture) -> None:
    """Factors, vectors and P bit for bit, R and the update to the last digits of float64."""
    adapter = opened(case)
    assert adapter.modules.keys() == case.modules_by_name.keys()
    assert sorted(adapter.places, key=adapter.places.__getitem__) == [row["name"] for row in case.modules]
    assert adapter.groups == {row["name"]: row["group"] for row in case.modules}
    drawn, few = adapter.projections(), {row["name"] for row in case.modules[::11]}  # one by one they take a while
    for name, group in adapter.groups.items():
        A, B, P, v = (case.live[f"{name}.{part}"] for part in "ABPv")
        found = adapter.factors(name)
        for mine, theirs in ((found.A, A), (found.B, B), (adapter.vector(group), v)):
            assert (mine.dtype, mine.tobytes()) == (theirs.dtype, theirs.tobytes()), name
        assert (drawn[name].dtype, drawn[name].tobytes()) == (np.float32, P.astype(np.float32).tobytes()), name
        if name not in few:
            continue
        assert adapter.projection(name).tobytes() == drawn[name].tobytes()
        R = np.tensordot(v.astype(np.float64), P.astype(np.float64), 1)
        np.testing.assert_allclose(adapter.R(name), R, rtol=1e-12, atol=1e-15 * np.abs(R).max())
        delta = case.delta(name)
        np.testing.assert_allclose(adapter.delta(name), delta, rtol=1e-10, atol=1e-13 * np.abs(delta).max())


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_the_training_dtype_is_the_base_s(case: Fixture) -> None:
    """transformers keeps a T5's wo in float32, whatever the rest is in."""
    base, adapter = str(case.facts["base"]), opened(case)
    for name in case.modules_by_name:
        kept_wide = base == "t5-fp16" and name.endswith(".wo")
        assert adapter.training_dtype(name) == ("float32" if kept_wide else DTYPES[recipe.BASES[base].dtype]), name


@dataclass
class Counting:
    """A tensor file that counts what is read of it."""

    file: TensorFile
    read_of: Counter[str] = field(default_factory=Counter)

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.file.tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.file.metadata

    def read(self, name: str) -> NDArray[Any]:
        self.read_of[name] += 1
        return self.file.read(name)

    def pieces(self, name: str) -> Iterator[bytes]:
        return self.file.pieces(name)


def test_what_is_read_when_it_is_asked_for() -> None:
    """Nothing at first, vectors once, factors each time; what `on` makes shares what is known."""
    case = fixture("peft021-13-numbers")
    header = read_adapter(case.adapter)
    file = Counting(header.file)
    adapter = Adapter(replace(header, file=file), base=open_base(case.base))
    name = case.modules[3]["name"]
    assert adapter.places[name] == 3
    assert not file.read_of
    adapter.vector(0)
    adapter.on(stream="torch-cpu-scalar").vector(0)
    assert file.read_of == {"base_model.tinylora_v.0": 1}
    adapter.factors(name)
    adapter.factors(name)
    assert file.read_of[f"base_model.model.{name}.tinylora_A"] == 2


def test_a_stream_draws_the_p_of_its_machine(tmp_path: Path) -> None:
    """One drawn by a CPU without AVX2 and stored, left out, comes back by that CPU's stream alone."""
    case = fixture("peft020-scalar")
    adapter = Adapter(
        read_adapter(edited_copy(case.name, tmp_path / "a", without_projections)), base=open_base(case.base)
    )
    scalar = adapter.on(stream="torch-cpu-scalar")
    assert (adapter.stream, scalar.stream) == ("torch-cpu-avx2", "torch-cpu-scalar")
    stored = {name: case.live[f"{name}.P"].tobytes() for name in case.modules_by_name}
    assert {name: P.tobytes() for name, P in scalar.projections().items()} == stored
    assert {name: P.tobytes() for name, P in adapter.projections().items()} != stored


def test_on_another_base_or_order_forgets_what_followed_from_the_first(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    names = [row["name"] for row in case.modules]
    alone = Adapter(
        read_adapter(edited_copy(case.name, tmp_path / "a", base_model_name_or_path=None, auto_mapping=None))
    )
    assert (alone.base, alone.architecture) == (None, None)
    with pytest.raises(UndeterminedError, match="no architecture is known"):
        _ = alone.places
    assert alone.groups == dict.fromkeys(names, 0)  # one for all needs no order
    with pytest.raises(UndeterminedError, match="the order of the modules is in no file"):
        alone.projection(names[5])
    (tmp_path / "order.txt").write_text("\n".join(names))
    for told in (
        alone.on(Base(case.base)),
        alone.on(module_order=names),
        alone.on(module_order=tmp_path / "order.txt"),
    ):
        assert told.projection(names[5]).tobytes() == case.live[f"{names[5]}.P"].astype(np.float32).tobytes()
    later = alone.on(Base(case.base)).on(first_adapter=["model.embed_tokens", *names])
    assert later.projection(names[4]).tobytes() == case.live[f"{names[5]}.P"].astype(np.float32).tobytes()
    with pytest.raises(UndeterminedError):
        _ = alone.places


def test_a_lost_seed_is_lost_whatever_is_known_of_the_order() -> None:
    case = fixture("peft019-seed-only")
    name = case.modules[0]["name"]
    for adapter in (opened(case), opened(case, module_order=[row["name"] for row in case.modules])):
        for verb in (adapter.projection, adapter.R, adapter.delta):
            with pytest.raises(UndeterminedError, match=r"PEFT 0\.19\.1 drew P from a seed that Python's hash salted"):
                verb(name)
    assert adapter.factors(name).A.tobytes() == case.live[f"{name}.A"].tobytes()


def test_groups_that_contradict_the_file_are_an_error_to_who_asks(tmp_path: Path) -> None:
    case = fixture("peft019-shared")
    adapter = Adapter(
        read_adapter(edited_copy(case.name, tmp_path / "a", weight_tying=0.25)), base=open_base(case.base)
    )
    name = case.modules[0]["name"]
    assert adapter.projection(name).tobytes() == case.live[f"{name}.P"].astype(np.float32).tobytes()
    with pytest.raises(MismatchError, match=r"36 modules with weight_tying 0\.25 don't make the groups 0 to 17"):
        adapter.delta(name)


def test_the_base_is_the_one_that_the_adapter_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here, or from the adapter's directory; a base that is given counts first."""
    case = fixture("peft021-layers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "base").mkdir(parents=True)
    adapter = edited_copy(case.name, tmp_path / "in" / "a", base_model_name_or_path="../base")
    found = Adapter(read_adapter(adapter)).base
    assert found is not None
    assert found.path.resolve() == tmp_path / "in" / "base"
    given = Base(case.base)
    assert Adapter(read_adapter(adapter), base=given).base is given
