"""The `tinylora` command: click commands that parse, call one operation, and render what it returns."""

try:
    from .main import main
except KeyboardInterrupt:  # while the imports run, which `main` can't catch yet
    raise SystemExit(130) from None

__all__ = ["main"]
