"""Where inputs come from: a local path, or a repository on the Hub."""
