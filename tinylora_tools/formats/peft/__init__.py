"""PEFT's files: configuration, keys, tensors, and what its releases do differently."""
