"""Nouns: what an adapter is. A source of any form becomes one open adapter, with its places, its P and its faults."""
