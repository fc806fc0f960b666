"""TinyLoRA math: arrays in, arrays out. No paths, no printing, no globals."""
