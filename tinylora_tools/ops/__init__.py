"""One use case a module: what the commands do, without the terminal."""
