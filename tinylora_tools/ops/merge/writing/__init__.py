"""The bytes of a merge: summed, copied, and put where they belong."""
