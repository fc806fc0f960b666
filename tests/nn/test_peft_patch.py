"""Adapters that PEFT makes and loads within `fast_peft`, beside those that it makes and loads alone."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import recipe
import torch
from fixture_data import fixture
from peft import LoraConfig, PeftModel, TinyLoraConfig, get_peft_model
from peft.tuners.tinylora import Embedding, TinyLoraLayer, TinyLoraModel
from safetensors.torch import load_file, save_file
from small_model import TARGETS, SmallModel, adapted

import tinylora_tools
from tinylora_tools.core.svd import triplets
from tinylora_tools.errors import FormatError, UnsupportedError
from tinylora_tools.nn import fast_peft

pytestmark = pytest.mark.filterwarnings("ignore")

#: Loaded with the installed PEFT: a second adapter's file needs the first one, which the tests of several have.
LOADED = [name for name, case in recipe.CASES.items() if case.second is None and case.environment is None]

#: Models that releases before 0.21.2 can't adapt with the transformers that the tests have.
OLDER = peft.__version__ < "0.21.2"
NEWER = pytest.mark.skipif(OLDER, reason="this PEFT doesn't know this transformers' encoder-decoders")


def cases(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=[NEWER] if "t5" in name else []) for name in names]


#: How far A and B may lie from PEFT's, over their largest entry: its own decomposition is of float32, and rounds to the
#: weight's dtype before and after the products.
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9, torch.float64: 2e-5}


def base_of(name: str) -> Any:
    base = recipe.BASES[name]
    return recipe.load_base(base, fixture("peft021-13-numbers").base.parent / name)


def settings_of(case: recipe.Case) -> dict[str, Any]:
    return {**case.config, **({"task_type": case.task} if case.task else {})}


def small(dtype: torch.dtype = torch.float32) -> SmallModel:
    torch.manual_seed(3)
    return SmallModel().to(dtype)


def made(model: Any, settings: dict[str, Any], **how: Any) -> Any:
    torch.manual_seed(1)
    return get_peft_model(model, TinyLoraConfig(**{"init_weights": "uniform", **settings}), **how)


def logits(model: Any, base: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(**recipe.model_inputs(base)).logits
    return result


def assert_alike(ours: Any, theirs: Any) -> None:
    """The same names, dtypes and values; A and B up to rounding and the signs of pairs."""
    mine, others = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(others)
    for name, other in others.items():
        assert (mine[name].dtype, mine[name].shape) == (other.dtype, other.shape), name
        if ".tinylora_A." not in name and ".tinylora_B." not in name:
            assert torch.equal(mine[name], other), name
    for name in (name for name in others if ".tinylora_A." in name):
        second = name.replace("tinylora_A", "tinylora_B")
        layer = ours.get_submodule(name.partition(".tinylora_A.")[0])
        close = CLOSE[layer.get_base_layer().weight.dtype]
        signs = torch.where((mine[name].double() * others[name].double()).sum(1) < 0, -1.0, 1.0).to(mine[name])
        for part, other in ((mine[name] * signs[:, None], others[name]), (mine[second] * signs, others[second])):
            assert float((part - other).abs().max()) <= close * float(other.abs().max()), name
        assert mine[name].is_contiguous()
        assert mine[second].is_contiguous()


@pytest.fixture
def no_decomposition(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on, whoever decomposes fails."""

    def refuse() -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise AssertionError("decomposed")

        monkeypatch.setattr(torch.linalg, "svd", fail)
        monkeypatch.setattr("tinylora_tools.nn.peft_patch.top_triplets", fail)

    return refuse


@contextlib.contextmanager
def counted() -> Iterator[list[tuple[int, ...]]]:
    """The shapes of what torch decomposes in full, but for the small matrices that iterations make."""
    seen: list[tuple[int, ...]] = []
    original = torch.linalg.svd

    def svd(A: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1).f_globals["__name__"]
        if caller.startswith("peft"):
            seen.append(tuple(A.shape))
        return original(A, *args, **kwargs)

    torch.linalg.svd = svd
    try:
        yield seen
    finally:
        torch.linalg.svd = original


@pytest.mark.parametrize("name", cases([name for name, case in recipe.CASES.items() if not case.environment]))
def test_what_is_made_is_pefts(name: str) -> None:
    case = recipe.CASES[name]
    how = {} if case.autocast else {"autocast_adapter_dtype": False}
    theirs = made(base_of(case.base), settings_of(case), **how)
    random = torch.get_rng_state()
    with fast_peft(), counted() as decomposed:
        ours = made(base_of(case.base), settings_of(case), **how)
    assert decomposed == []
    assert torch.equal(torch.get_rng_state(), random)
    assert_alike(ours, theirs)
    trained = [[name for name, p in model.named_parameters() if p.requires_grad] for model in (ours, theirs)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("name", cases(LOADED))
def test_what_is_loaded_is_pefts_bit_for_bit(
    name: str, low_cpu_mem_usage: bool, no_decomposition: Callable[[], None]
) -> None:
    case, at = recipe.CASES[name], fixture(name).adapter
    how: dict[str, Any] = {"low_cpu_mem_usage": low_cpu_mem_usage, "autocast_adapter_dtype": case.autocast}
    theirs_base, ours_base = base_of(case.base), base_of(case.base)
    try:
        expected = logits(theirs := PeftModel.from_pretrained(theirs_base, at, **how), theirs_base)
    except NotImplementedError:
        assert OLDER  # these keep v of the meta device
        assert low_cpu_mem_usage
        return
    no_decomposition()
    with fast_peft():
        ours = PeftModel.from_pretrained(ours_base, at, **how)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert torch.equal(logits(ours, ours_base), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    settings = {"r": 2, "u": 3, "weight_tying": 0.5, "target_modules": TARGETS}
    theirs = made(small(dtype), settings)
    with fast_peft():
        ours = made(small(dtype), settings)
    assert_alike(ours, theirs)
    ours.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(small(dtype), tmp_path)
    for name, value in reloaded.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


def test_a_second_adapter_is_added_and_loaded(tmp_path: Path, no_decomposition: Callable[[], None]) -> None:
    first, second = {"r": 2, "u": 3, "target_modules": TARGETS}, {"r": 1, "u": 5, "target_modules": TARGETS[:2]}

    def added(model: Any) -> Any:
        model.add_adapter("second", TinyLoraConfig(**second, init_weights="uniform"))
        return model

    theirs = added(made(small(), first))
    with fast_peft(), counted() as decomposed:
        ours = added(made(small(), first))
    assert decomposed == []
    assert_alike(ours, theirs)
    assert ours.active_adapters == theirs.active_adapters == ["default"]

    theirs.save_pretrained(tmp_path)
    expected = PeftModel.from_pretrained(small(), tmp_path)
    expected.load_adapter(tmp_path / "second", "second")
    no_decomposition()
    with fast_peft():
        loaded = PeftModel.from_pretrained(small(), tmp_path)
        result = loaded.load_adapter(tmp_path / "second", "second")
    assert result.missing_keys == []
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in expected.state_dict().items())


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lacking", ["A", "B", "AB"])
def test_what_a_file_lacks_is_as_peft_decomposes_it(
    lacking: str, dtype: torch.dtype, autocast: bool, tmp_path: Path
) -> None:
    """With the signs that PEFT finds, which are those that the adapter was trained with."""
    made(small(dtype), {"r": 2, "u": 3, "target_modules": TARGETS}).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    stored = load_file(file)
    for part in lacking:
        for layer in ("embed", "layer.0"):
            del stored[f"base_model.model.{layer}.tinylora_{part}"]
    save_file({name: torch.ones_like(value) if "_A" in name else value for name, value in stored.items()}, file)
    theirs = PeftModel.from_pretrained(small(dtype), tmp_path, autocast_adapter_dtype=autocast)
    with fast_peft(), counted() as decomposed, pytest.warns(UserWarning, match="missing adapter keys"):
        ours = PeftModel.from_pretrained(small(dtype), tmp_path, autocast_adapter_dtype=autocast)
    assert sorted(decomposed) == [(5, 4), (6, 4)]
    if len(lacking) == 1:  # PEFT keeps the part that the file has; ours is the file's all the same
        stored = theirs.state_dict()
        assert any(bool((value == 1).all()) for name, value in stored.items() if "_A" in name)
    for name, value in theirs.state_dict().items():
        assert value.dtype == ours.state_dict()[name].dtype, name
        assert torch.equal(value, ours.state_dict()[name]), name


def test_shapes_that_do_not_fit_are_ignored_where_they_are_told_to(tmp_path: Path) -> None:
    made(small(), {"r": 2, "u": 3, "target_modules": TARGETS}).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    stored = load_file(file)
    stored["base_model.model.layer.0.tinylora_A"] = torch.ones(3, 4)
    save_file(stored, file)
    theirs, ours = (made(small(), {"r": 2, "u": 3, "target_modules": ["head"]}) for _ in range(2))
    theirs.load_adapter(tmp_path, "other", ignore_mismatched_sizes=True)
    with fast_peft():
        ours.load_adapter(tmp_path, "other", ignore_mismatched_sizes=True)
        assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("damage", ["shape", "file"])
def test_a_load_that_fails_leaves_no_room_empty(damage: str, tmp_path: Path) -> None:
    made(small(), {"r": 2, "u": 3, "target_modules": TARGETS}).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    if damage == "file":
        file.write_bytes(b"nothing")
    else:
        save_file({**load_file(file), "base_model.model.layer.0.tinylora_A": torch.ones(3, 4)}, file)
    base, expected = small(), made(small(), {"r": 2, "u": 3, "target_modules": TARGETS})
    with fast_peft(), pytest.raises(Exception, match=r"size mismatch|header"):
        PeftModel.from_pretrained(base, tmp_path)
    layers = [layer for layer in base.modules() if isinstance(layer, TinyLoraLayer)]
    others = [layer for layer in expected.modules() if isinstance(layer, TinyLoraLayer)]
    assert len(layers) == len(others) == 3
    for layer, other in zip(layers, others, strict=True):
        for part in ("tinylora_A", "tinylora_B"):
            mine, wanted = getattr(layer, part)["default"], getattr(other, part)["default"]
            assert torch.allclose(mine.abs(), wanted.abs(), atol=1e-5)


def test_a_file_of_nan_is_not_made_good(tmp_path: Path) -> None:
    made(small(), {"r": 2, "u": 3, "target_modules": TARGETS}).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    key = "base_model.model.layer.0.tinylora_A"
    save_file({**load_file(file), key: torch.full((2, 4), torch.nan)}, file)
    with fast_peft():
        ours = PeftModel.from_pretrained(small(), tmp_path)
    assert bool(ours.get_submodule("base_model.model.layer.0").tinylora_A["default"].isnan().all())


def test_what_is_made_is_trained_saved_and_loaded_by_peft_alone(tmp_path: Path) -> None:
    with fast_peft():
        base = base_of("qwen2-bf16")
        model = made(
            base, {"r": 2, "u": 13, "weight_tying": 1.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        )
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    ids = torch.arange(24).reshape(2, 12)
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_of("qwen2-bf16"), tmp_path)
    assert torch.equal(logits(again, base), logits(model, base))


def test_weights_that_are_not_in_memory_are_left_to_peft() -> None:
    with torch.device("meta"):
        empty = SmallModel()
    with fast_peft():
        model = made(empty, {"r": 2, "u": 3, "target_modules": ["layer.0"]})
    assert model.get_submodule("base_model.model.layer.0").tinylora_A["default"].is_meta


def test_weights_of_other_kinds_are_left_to_peft() -> None:
    def refusal() -> str:
        model = small()
        model.head.weight.data = model.head.weight.data.to(torch.float8_e4m3fn)
        with pytest.raises(NotImplementedError) as caught:
            made(model, {"target_modules": ["head"], "init_weights": True})
        return str(caught.value)

    alone = refusal()
    with fast_peft(), counted() as decomposed:
        assert refusal() == alone
    assert decomposed == [(2, 4)]

    class Packed(torch.Tensor):
        """Weights whose memory holds something else than their numbers."""

    model = small()
    model.head.weight = torch.nn.Parameter(model.head.weight.detach().as_subclass(Packed))
    with fast_peft(), counted() as decomposed:
        made(model, {"target_modules": ["head"]})
    assert decomposed == [(2, 4)]


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = small()
    model.layer[1].weight.data[0, 0] = torch.nan
    with fast_peft(), pytest.raises(FormatError, match=r"^layer\.1: 1 of 24 entries are NaN or infinite"):
        made(model, {"r": 2, "u": 3, "target_modules": TARGETS})


def test_triplets_that_are_not_accurate_are_left_to_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where products of float32 are made of shorter numbers."""

    def rough(W: torch.Tensor, r: int) -> Any:
        found = triplets.top_triplets(W, r)
        if W.shape != (6, 4):
            return found
        certificate = dataclasses.replace(found.certificate, residuals=(1e-7, 2e-5))
        return dataclasses.replace(found, U=found.U + 1, certificate=certificate)

    monkeypatch.setattr("tinylora_tools.nn.peft_patch.top_triplets", rough)
    settings = {"r": 2, "u": 3, "target_modules": TARGETS}
    theirs = made(small(torch.bfloat16), settings)
    with fast_peft(), counted() as decomposed:
        ours = made(small(torch.bfloat16), settings)
    assert decomposed == [(6, 4)]
    assert_alike(ours, theirs)


def test_autocast_leaves_factors_accurate() -> None:
    theirs = made(small(), {"r": 2, "u": 3, "target_modules": TARGETS})
    with fast_peft(), torch.autocast("cpu", torch.bfloat16):
        ours = made(small(), {"r": 2, "u": 3, "target_modules": TARGETS})
    assert_alike(ours, theirs)


def test_other_methods_of_peft_are_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = get_peft_model(small(), LoraConfig(target_modules=["head"], init_lora_weights=False))
    theirs.save_pretrained(tmp_path)
    with fast_peft():
        torch.manual_seed(1)
        ours = get_peft_model(small(), LoraConfig(target_modules=["head"], init_lora_weights=False))
        loaded = PeftModel.from_pretrained(small(), tmp_path)
    for model in (ours, loaded):
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in theirs.state_dict().items())


PATCHED = [
    (TinyLoraLayer, "_init_svd"), (Embedding, "_init_svd_embedding"), (TinyLoraModel, "inject_adapter"),
    (PeftModel, "load_adapter"), (PeftModel, "from_pretrained"),
]  # fmt: skip


def methods() -> list[Any]:
    return [vars(owner).get(name) for owner, name in PATCHED]


def test_peft_is_as_it_was_afterwards() -> None:
    before = methods()
    with fast_peft():
        assert all(now is not then for now, then in zip(methods(), before, strict=True))
        within = methods()
        with contextlib.suppress(KeyError), fast_peft():
            assert methods() == within
            raise KeyError
        assert methods() == within
        with counted() as decomposed:
            adapted()
        assert decomposed == []
    assert methods() == before
    with counted() as decomposed:
        adapted()
    assert len(decomposed) == 3


def test_it_decorates() -> None:
    @fast_peft()
    def work() -> Any:
        return adapted()

    for _ in range(2):
        with counted() as decomposed:
            work()
        assert decomposed == []


def test_a_method_that_someone_else_replaced_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = vars(TinyLoraLayer)["_init_svd"]
    context = fast_peft()
    context.__enter__()
    within = vars(TinyLoraLayer)["_init_svd"]

    def theirs(*arguments: Any) -> None:
        within(*arguments)

    TinyLoraLayer._init_svd = theirs
    context.__exit__(None, None, None)
    try:
        assert vars(TinyLoraLayer)["_init_svd"] is theirs
        with counted() as decomposed:
            adapted()
        assert len(decomposed) == 3  # and ours underneath does nothing
    finally:
        TinyLoraLayer._init_svd = before


def in_a_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def test_other_threads_are_not_served() -> None:
    with fast_peft(), counted() as decomposed:
        in_a_thread(adapted)
        assert len(decomposed) == 3
        adapted()
        assert len(decomposed) == 3


def test_other_tasks_are_not_served() -> None:
    async def inside(entered: asyncio.Event, leave: asyncio.Event) -> int:
        with fast_peft(), counted() as decomposed:
            adapted()
            entered.set()
            before = len(decomposed)
            await leave.wait()
        return before

    async def both() -> tuple[int, int]:
        entered, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(inside(entered, leave))
        await entered.wait()
        with counted() as decomposed:
            adapted()
        leave.set()
        return await task, len(decomposed)

    before = methods()
    assert asyncio.run(both()) == (0, 3)
    assert methods() == before


def test_threads_may_come_and_go() -> None:
    """One enters, another enters, the first leaves: the second is still served, and PEFT is as it was at the end."""
    before = methods()
    entered, leave = threading.Event(), threading.Event()
    seen: list[int] = []

    def second() -> None:
        with fast_peft():
            entered.set()
            assert leave.wait(60)
            with counted() as decomposed:
                adapted()
            seen.append(len(decomposed))

    thread = threading.Thread(target=second)
    with fast_peft():
        thread.start()
        assert entered.wait(60)
    assert methods() != before
    leave.set()
    thread.join()
    assert seen == [0]
    assert methods() == before


def test_many_threads_at_once() -> None:
    expected = adapted().state_dict()
    failures: list[str] = []

    def work() -> None:
        for _ in range(5):
            with fast_peft():
                model = get_peft_model(SmallModel(), TinyLoraConfig(r=2, u=3, target_modules=TARGETS))
            for name, value in model.state_dict().items():
                if bool(value.isnan().any()) or value.shape != expected[name].shape:
                    failures.append(name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("version", ["0.19.1", "0.22.0", "0.22.0.dev0", "1.20.0", "0.2.0", "unknown"])
def test_other_releases_are_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = methods()
    monkeypatch.setattr(peft, "__version__", version)
    with pytest.raises(UnsupportedError, match=f"this is PEFT {version}") as caught, fast_peft():
        raise AssertionError("entered")
    assert "pip install 'peft==0.21.*'" in str(caught.value.hint)
    assert methods() == before


@pytest.mark.parametrize("version", ["0.20.0", "0.20.1.dev0", "0.21.9"])
def test_known_releases_are_taken(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft, "__version__", version)
    with fast_peft(), counted() as decomposed:
        adapted()
    assert decomposed == []


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UnsupportedError, match="PEFT, which isn't installed") as caught, fast_peft():
        raise AssertionError("entered")
    assert "tinylora-tools[peft]" in str(caught.value.hint)


def test_what_peft_lacks_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *rest: Any) -> Any:
        if name == "peft":
            raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ModuleNotFoundError, match="accelerate"), fast_peft():
        raise AssertionError("entered")


def test_the_package_alone_costs_no_peft() -> None:
    code = (
        "import tinylora_tools as tl, sys; tl.nn; assert 'torch' not in sys.modules; "
        "tl.nn.fast_peft; assert 'peft' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert tinylora_tools.nn.fast_peft is fast_peft
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tinylora_tools.nn.nothing  # noqa: B018
