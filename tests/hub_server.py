"""A Hub that serves one repository, `owner/name`, from a directory to the real huggingface_hub, on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


def git_sha1(data: bytes) -> str:
    """What Git calls a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - Git's


class _Handler(BaseHTTPRequestHandler):
    root: Path
    lfs: tuple[str, ...]
    refusal: tuple[int, dict[str, str]] | None

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        path, headers = self.path.partition("?")[0], {"X-Repo-Commit": COMMIT}
        if self.refusal is not None:
            return self._send(self.refusal[0], self.refusal[1], b"{}")
        files = sorted(file for file in self.root.iterdir() if file.is_file())
        if path.startswith("/api/"):
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
            siblings = [{"rfilename": file.name} for file in files]
            whole = {"_id": "0", "id": "owner/name", "modelId": "owner/name", "sha": COMMIT, "siblings": siblings}
            data = json.dumps(tree if "/tree/" in path else whole).encode()
        else:
            data = (self.root / path.rpartition("/")[2]).read_bytes()
            headers["ETag"] = f'"{git_sha1(data)}"'
            if path.endswith(self.lfs):
                headers |= {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
        return self._send(200, headers, data)

    def _send(self, status: int, headers: dict[str, str], data: bytes) -> bytes:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        return data


@contextmanager
def hub_of(
    directory: Path, lfs: tuple[str, ...] = (".safetensors",), refusal: tuple[int, dict[str, str]] | None = None
) -> Iterator[str]:
    """The address of such a Hub; `lfs` are the endings of files that it keeps by their sha256, `refusal` a status and
    headers that it answers everything with."""
    handler = type("Handler", (_Handler,), {"root": directory, "lfs": lfs, "refusal": refusal})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
