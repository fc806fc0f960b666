"""Adapters in other forms."""
