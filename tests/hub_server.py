"""A Hub that serves a repository, `owner/name`, from a directory to the real huggingface_hub, on this machine."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "a" * 40

#: Bytes from which on a file is nothing but a size: nobody reads its digest.
LARGE = 1 << 26


def git_sha1(data: bytes) -> str:
    """What Git calls a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - Git's


@dataclass
class Hub:
    """A Hub, and what it was asked for.

    `root` has the repository's files, `others` those of more, by their names; `listed` are names of files that it says
    it has besides. `trouble` is what befalls requests for files: a status with headers for each in turn, "cut" for half
    an answer, "slow" for one that takes a second, "stuck" for one that comes when the Hub goes; then all is well. Of
    the weights file that is `withheld` nothing but the header comes: requests for
    more are `refused`, or else wait. `sent` counts the bytes of weights files that it gave, `asked` the requests;
    `reached` is set when something is stuck.
    """

    root: Path
    lfs: tuple[str, ...] = (".safetensors",)
    refusal: tuple[int, dict[str, str]] | None = None
    others: Mapping[str, Path] = field(default_factory=dict)
    listed: Sequence[str] = ()
    ranges: bool = True
    trouble: list[Any] = field(default_factory=list)
    withheld: str | None = None
    refused: bool = False
    sent: int = 0
    asked: list[str] = field(default_factory=list)
    address: str = ""
    lock: Any = field(default_factory=threading.Lock)
    reached: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)

    def of(self, path: str) -> tuple[str, Path]:
        """The repository that a request is for, and its files."""
        name = next((name for name in self.others if f"/{name}/" in f"{path}/"), "owner/name")
        return name, self.others.get(name, self.root)

    @property
    def elsewhere(self) -> str:
        """Where weights are sent from: another host than the Hub's, as far as a client can tell."""
        return self.address.replace("127.0.0.1", "localhost")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path, hub = self.path.partition("?")[0], self.hub
        with hub.lock:
            hub.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        if hub.refusal is not None:
            self._send(*hub.refusal, b"{}", body=body)
        elif path.startswith("/api/"):
            self._send(200, {}, json.dumps(self._described(path)).encode(), body=body)
        else:
            self._file(path, body=body)

    def _described(self, path: str) -> Any:
        repository, root = self.hub.of(path)
        files = sorted(file for file in root.rglob("*") if file.is_file())
        named = {file.relative_to(root).as_posix(): file for file in files}
        if "/tree/" in path:
            return [{"type": "file", "path": n, "size": f.stat().st_size, "oid": "0" * 40} for n, f in named.items()]
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in self.hub.listed]
        for name, file in named.items():
            size, more = file.stat().st_size, {}
            if "blobs=" in self.path:
                more = {"size": size, "blobId": "0" * 40 if size > LARGE else git_sha1(file.read_bytes())}
                if name.endswith(self.hub.lfs):
                    digest = "0" * 64 if size > LARGE else hashlib.sha256(file.read_bytes()).hexdigest()
                    more["lfs"] = {"size": size, "sha256": digest, "pointerSize": 130}
            siblings.append({"rfilename": name, **more})
        return {"_id": "0", "id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}

    def _file(self, path: str, *, body: bool) -> None:
        repository, root = self.hub.of(path)
        name = path.partition("/resolve/")[2].partition("/")[2] or path.rpartition("/cdn/")[2]
        file = root / name
        if not file.is_file():
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"{}", body=body)
        elif not name.endswith(self.hub.lfs):
            self._send(200, {"ETag": f'"{git_sha1(file.read_bytes())}"'}, file.read_bytes(), body=body)
        elif "/cdn/" in path:
            self._weights(file, body=body)
        else:
            data = file.read_bytes() if file.stat().st_size < LARGE else b""
            headers = {"ETag": f'"{git_sha1(data)}"', "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"'}
            headers |= {
                "X-Linked-Size": str(file.stat().st_size),
                "Location": f"{self.hub.elsewhere}/{repository}/cdn/{name}",
            }
            self._send(302, headers, b"", body=body)

    def _weights(self, file: Path, *, body: bool) -> None:
        with self.hub.lock:
            trouble = self.hub.trouble.pop(0) if body and self.hub.trouble else None
        if isinstance(trouble, tuple):
            self._send(*trouble, b"{}", body=body)
            return
        if trouble == "slow":
            time.sleep(1)
        if trouble == "stuck":
            self.hub.reached.set()
            self.hub.gone.wait(60)
        size, (start, end) = file.stat().st_size, self._range(file.stat().st_size)
        while self.hub.withheld == file.name and start > 0:
            if self.hub.refused:
                self._send(403, {}, b"{}", body=body)
                return
            time.sleep(0.05)
        with file.open("rb") as opened:
            opened.seek(start)
            data = opened.read(end - start) if body else b""
        headers = {"Content-Length": str(end - start)}
        if ranged := (self.hub.ranges and "Range" in self.headers):
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        data = data[: len(data) // 2] if trouble == "cut" else data
        with self.hub.lock:
            self.hub.sent += len(data)
        self._send(206 if ranged else 200, headers, data, body=body)
        self.close_connection = trouble == "cut" or self.close_connection

    def _range(self, size: int) -> tuple[int, int]:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or not self.hub.ranges:
            return 0, size
        return int(asked[1]), min(int(asked[2] or size - 1) + 1, size)

    def _send(self, status: int, headers: dict[str, str], data: bytes, *, body: bool) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@contextmanager
def hub_serving(directory: Path, **more: Any) -> Iterator[Hub]:
    """Such a Hub; `more` are fields of it."""
    hub = Hub(directory, **more)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.gone.set()
        server.shutdown()
        server.server_close()


@contextmanager
def hub_of(
    directory: Path, lfs: tuple[str, ...] = (".safetensors",), refusal: tuple[int, dict[str, str]] | None = None
) -> Iterator[str]:
    """The address of one; `lfs` are the endings of files that it keeps by their sha256, `refusal` a status and headers
    that it answers everything with."""
    with hub_serving(directory, lfs=lfs, refusal=refusal) as hub:
        yield hub.address
