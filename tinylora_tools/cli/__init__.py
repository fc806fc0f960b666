"""The `tinylora` command: click commands that parse, call one operation, and render what it returns."""

from .main import main

__all__ = ["main"]
