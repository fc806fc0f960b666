"""Make tinylora_tools/data/golden_projections.json: P as the installed torch draws it at two CPU capabilities.

    python scripts/make_golden.py

Needs an x86-64 machine with AVX2 and the GNU C library.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "tinylora_tools" / "data" / "golden_projections.json"

#: (seed, u, r): below 16 values, multiples of 16, neither; negative and large seeds.
CASES = [(42, 13, 2), (43, 64, 2), (0, 1, 1), (-7, 3, 2), (2**40 + 7, 64, 4), (42, 5, 3), (42, 1, 4), (99, 13, 3)]
STREAMS = {"torch-cpu-avx2": "avx2", "torch-cpu-scalar": "default"}

DRAW = """
import json, sys, torch
print(torch.__version__.partition("+")[0], torch.backends.cpu.get_cpu_capability())
for seed, u, r in json.loads(sys.argv[1]):
    P = torch.normal(mean=0.0, std=1 / r**0.5, size=(u, r, r), generator=torch.Generator().manual_seed(seed))
    print(P.numpy().tobytes().hex())
"""


def main() -> None:
    streams, version = {}, ""
    for stream, capability in STREAMS.items():
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        command = [sys.executable, "-c", DRAW, json.dumps(CASES)]
        lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split("\n")
        version, found = lines[0].split()
        if found.lower() != capability:
            raise SystemExit(f"asked for {capability}, torch runs with {found}")
        streams[stream] = [base64.b64encode(bytes.fromhex(line)).decode() for line in lines[1 : len(CASES) + 1]]
    data = {"torch": version, "cases": CASES, "streams": streams}
    OUTPUT.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
