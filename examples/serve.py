"""A model behind HTTP: POST /v1/completions takes a prompt, and answers with what the model makes of it.

    python examples/serve.py MODEL [--port 8000]

This is for trying out a merged model where no engine runs. vLLM and SGLang answer the same requests, for real loads.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def answer(model: Any, tokenizer: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The completion of a prompt, drawn with `seed`, or the likeliest one at temperature 0."""
    asked = tokenizer(request["prompt"], return_tensors="pt")
    temperature = float(request.get("temperature", 0))
    torch.manual_seed(int(request.get("seed", 0)))
    drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    ids = model.generate(**asked, max_new_tokens=int(request.get("max_tokens", 5)), **drawn)
    text = tokenizer.decode(ids[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    return {"object": "text_completion", "choices": [{"index": 0, "text": text}]}


def server_of(model: Any, tokenizer: Any, port: int) -> HTTPServer:
    """A server of this machine alone, one request at a time."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                length = int(self.headers["Content-Length"] or 0)
                code, said = 200, answer(model, tokenizer, json.loads(self.rfile.read(length)))
            except (KeyError, TypeError, ValueError) as error:
                code, said = 400, {"error": f"{type(error).__name__}: {error}"}
            text = json.dumps(said).encode() + b"\n"
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    return HTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(options.model), AutoTokenizer.from_pretrained(options.model)
    server = server_of(model, tokenizer, options.port)
    print(f"serving {options.model} at http://127.0.0.1:{server.server_port}/v1/completions", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
