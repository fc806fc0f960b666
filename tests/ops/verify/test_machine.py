"""This machine's ways of drawing P, against what is known of them."""

from __future__ import annotations

import pytest
import torch
from torch_streams import CAPABILITY, STREAM_OF, where_known

from tinylora_tools.errors import TinyLoraError
from tinylora_tools.ops.verify import machine as verify_machine
from tinylora_tools.ops.verify.seed import verify_seed


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is here")
def test_a_device_that_isn_t_here_is_skipped() -> None:
    assert verify_seed(device="cuda").skipped[0].startswith("cuda")


def test_a_new_arithmetic_of_torch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    changed = verify_machine._DRAW.replace("P.numpy()", "torch.nextafter(P, P + 1).numpy()")
    no_others = "import os\nif 'ATEN_CPU_CAPABILITY' in os.environ: print('2.0 NONE'); raise SystemExit\n"
    monkeypatch.setattr(verify_machine, "_DRAW", no_others + changed)
    report = verify_seed(device="cpu")
    assert not report.ok
    check = next(check for check in report.checks if check.name == "torch")
    assert (check.ok, check.identical, check.stream, check.max_ulp) == (False, False, None, 1)
    assert "no known stream" in check.note


@where_known
def test_golden_values_are_torch_s() -> None:
    """Each case drawn by the torch of this process is what is recorded of its stream."""
    cases, values = verify_machine.golden()
    drawn = [
        torch.normal(0.0, 1 / r**0.5, (u, r, r), generator=torch.Generator().manual_seed(seed)).reshape(-1)
        for seed, u, r in cases
    ]
    assert torch.cat(drawn).numpy().tobytes() == values[STREAM_OF[CAPABILITY]].tobytes()
    assert values.keys() == set(STREAM_OF.values())


def test_a_torch_that_does_not_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_machine, "_DRAW", "raise ImportError('libtorch is missing')")
    with pytest.raises(TinyLoraError, match="torch: torch doesn't run here: ImportError: libtorch is missing"):
        verify_machine.verify_machine("cpu")


def test_what_the_cpu_lacks_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch takes the environment's word for what the CPU has: it is asked itself, and an illegal instruction is no
    error."""
    lacking = "import torch\ntorch.cpu._is_avx2_supported = lambda: False\n"
    killed = "import os, signal\n"
    killed += "if os.environ.get('ATEN_CPU_CAPABILITY') == 'default': os.kill(os.getpid(), signal.SIGILL)\n"
    monkeypatch.setattr(verify_machine, "_DRAW", killed + lacking + verify_machine._DRAW)
    checks, skipped = verify_machine.verify_machine("cpu")
    assert {"torch default: not on this CPU", "torch avx2: not on this CPU"} <= {*skipped}
    assert not [check.name for check in checks if check.name.startswith(("torch default", "torch avx2"))]
    monkeypatch.setattr(verify_machine, "_DRAW", "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    with pytest.raises(TinyLoraError, match="torch: torch doesn't run here: it ended with -4"):
        verify_machine.verify_machine("cpu")
