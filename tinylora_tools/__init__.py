"""Inspect, merge and verify TinyLoRA adapters (arXiv:2602.04118)."""

__version__ = "0.1.0"
