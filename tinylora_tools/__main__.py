"""`python -m tinylora_tools` is `tinylora`."""

from .cli import main

main()
