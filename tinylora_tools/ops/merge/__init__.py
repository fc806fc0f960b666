"""Adapters merged into their base."""
