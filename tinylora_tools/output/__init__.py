"""Outputs that appear whole or not at all, and what comes along with a model's weights."""
