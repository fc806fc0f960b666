"""Nouns: what a base model is. Its architecture, its modules, their stored names, their weights."""
