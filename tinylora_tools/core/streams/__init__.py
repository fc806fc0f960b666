"""P from a seed, as named streams of numbers."""
