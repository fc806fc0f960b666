"""A Hub to which the real huggingface_hub pushes: preuploads, Git LFS, commits and pull requests."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Files of these endings are kept by Git LFS.
LFS = (".safetensors", ".gguf", ".bin")


@dataclass
class Inbox:
    """What was pushed.

    `files` are by name, `commits` the heads of commits with the branch and whether a pull request was asked for, `made`
    the requests for repositories and branches. `refusal` is a status that what begins with its path is answered with;
    `trouble` what befalls uploads of LFS files in turn: a status, "cut" for a connection that breaks, or "stuck" for
    one that is answered only when the Hub goes. `reached` is set when the first such file arrives.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    refusal: tuple[str, int] | None = None
    trouble: list[Any] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    address: str = ""
    reached: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    inbox: Inbox

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        whole = {"_id": "0", "id": "you/name", "modelId": "you/name", "sha": "b" * 40, "siblings": []}
        self._answer(whole if "/api/models/" in self.path else {"name": "you"})

    def do_PUT(self) -> None:
        data = self._body()
        trouble = self.inbox.trouble.pop(0) if self.inbox.trouble else None
        self.inbox.reached.set()
        if trouble == "stuck":
            self.inbox.gone.wait(60)
            return
        if trouble == "cut":
            self.close_connection = True
            return
        if trouble is not None:
            self._answer({"error": "trouble"}, trouble)
            return
        self.inbox.blobs[hashlib.sha256(data).hexdigest()] = data
        self._answer({})

    def do_POST(self) -> None:
        data, path = self._body(), self.path.partition("?")[0]
        if self.inbox.refusal and path.startswith(self.inbox.refusal[0]):
            self._answer({"error": "no"}, self.inbox.refusal[1])
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.inbox.made.append(json.loads(data))
            name = "/".join(filter(None, (json.loads(data).get("organization"), json.loads(data)["name"])))
            self._answer({"url": f"{self.inbox.address}/{name}", "name": name, "id": "0"})
        elif "/branch/" in path:
            self.inbox.made.append({"branch": path.rpartition("/branch/")[2]})
            self._answer({})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(data)["files"]]
            modes = {name: "lfs" if name.endswith(LFS) else "regular" for name in names}
            self._answer({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer({"transfer": "basic", "objects": [*map(self._object, json.loads(data)["objects"])]})
        elif "/commit/" in path:
            self._commit([json.loads(line) for line in data.splitlines()], path.rpartition("/commit/")[2])

    def _object(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in self.inbox.blobs:
            found["actions"] = {"upload": {"href": f"{self.inbox.address}/blobs/{asked['oid']}", "header": {}}}
        return found

    def _commit(self, lines: list[dict[str, Any]], branch: str) -> None:
        pull = "create_pr=1" in self.path
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.inbox.commits.append({**value, "branch": branch, "pull": pull})
            elif line["key"] == "file":
                self.inbox.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.inbox.files[value["path"]] = self.inbox.blobs[value["oid"]]
        at = f"{self.inbox.address}/you/name"
        more = {"pullRequestUrl": f"{at}/discussions/1"} if pull else {}
        self._answer({"success": True, "commitOid": "c" * 40, "commitUrl": f"{at}/commit/{'c' * 40}", **more})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def hub_taking(**more: Any) -> Iterator[Inbox]:
    """Such a Hub; `more` are fields of its inbox."""
    inbox = Inbox(**more)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"inbox": inbox}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    inbox.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield inbox
    finally:
        inbox.gone.set()
        server.shutdown()
        server.server_close()
