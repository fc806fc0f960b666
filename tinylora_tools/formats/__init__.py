"""Bytes on disk to plain dataclasses and back: names, dtypes and headers, no math."""
