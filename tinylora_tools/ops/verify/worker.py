"""A process of its own that merges and says what bytes come of it: CPU features are settled when NumPy starts.

`merged_elsewhere` starts it, and hands it the open adapter, whatever form that came in, through its standard input: a
line of JSON, then the tensors' bytes one behind the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...adapters.load import Adapter
from ...adapters.numbering import Numbering
from ...bases.base import Base
from ...errors import TinyLoraError
from ...formats.memory_file import MemoryFile
from ...formats.peft.adapter import sort_keys
from ...formats.peft.config import TinyLoraConfig
from ...formats.tensors import numpy_dtype


def merged_elsewhere(adapter: Adapter, base: Base, *, threads: int, environment: Mapping[str, str]) -> str:
    """The digest of a merge's bytes, as `merged_digest`, from a process with these settings too.

    Raises
    ------
    TinyLoraError
        If the adapter can't be merged.
    """
    header = adapter.header
    infos = [info for name, info in header.file.tensors.items() if name not in header.leaked_keys]
    job = {
        "path": str(adapter.path),
        "config": dict(adapter.config.raw) if header.has_config else None,
        "tensors": [(info.name, info.dtype, info.shape) for info in infos],
        "base": str(base.path.resolve()),
        "places": adapter.numbering.index,
        "groups": adapter.numbering.group,
        "seeding": header.seeding,
        "stream": adapter.stream,
        "threads": threads,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tinylora_tools.ops.verify.worker"],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        parts = [json.dumps(job).encode() + b"\n", *(header.file.read(info.name).tobytes() for info in infos)]
        out, err = process.communicate(b"".join(parts))
    if process.returncode:
        raise TinyLoraError(f"the merge failed: {err.decode(errors='replace').strip()}")
    return out.decode().strip()


def _main(stream: IO[bytes]) -> None:
    from ..merge.writing.digest import merged_digest

    job: dict[str, Any] = json.loads(stream.readline())
    path, arrays = Path(job["path"]), {}
    for name, dtype, shape in job["tensors"]:
        kind = numpy_dtype(dtype)
        data = stream.read(kind.itemsize * prod(shape))
        arrays[name] = np.frombuffer(data, kind).reshape(shape)
    config = None if job["config"] is None else TinyLoraConfig.from_json(job["config"], path)
    header = sort_keys(path, MemoryFile(path, arrays), config)
    numbering = Numbering(job["places"], job["groups"], "given")
    base = Base(Path(job["base"]))
    adapter = Adapter(header, base=base, seeding=job["seeding"], stream=job["stream"], numbering=numbering)
    print(merged_digest(adapter, base, threads=job["threads"]))


if __name__ == "__main__":
    try:
        _main(sys.stdin.buffer)
    except (TinyLoraError, OSError) as error:
        sys.exit(str(error))
