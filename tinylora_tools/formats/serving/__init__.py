"""Programs that serve models: what each takes of a LoRA adapter, and mlx-lm's form of one."""
